"""Classification that learns from label maps too: of each token, by MixToken."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from bilevel.models import BiFormerConfig
from bilevel.models.token_labels import TokenLogits
from bilevel.train import token_labels
from bilevel.train.config import TrainConfig
from bilevel.train.tasks.classification import classification
from bilevel.train.tasks.task import Task
from bilevel.train.token_labels.packing import unpacked


class Outputs(NamedTuple):
    """What a model makes of a batch in training."""

    logits: TokenLogits
    exchanged: Tensor
    """The places of the last map that were exchanged with the reversed batch, boolean."""


def with_token_labels(config: TrainConfig) -> Task:
    """In training, targets are label maps, packed (``packing.packed``), and outputs are
    :class:`Outputs`; else all is as in classification."""
    return replace(
        classification(config),
        outputs=partial(_outputs, architecture=config.architecture(1, 1)),
        loss=partial(_loss, config=config),
    )


def _outputs(model: nn.Module, images: Tensor, _: Any, architecture: BiFormerConfig) -> Any:
    if not model.training:
        return model(images)
    size = architecture.last_map(*images.shape[2:])
    rng = np.random.default_rng(np.random.randint(2**31))  # of the step, the same on all ranks
    places = token_labels.places(token_labels.draw_box(rng, *size), *size)
    if images.device.type == "cuda":
        places = places.pin_memory()  # else the copy would wait for the device
    places = places.to(images.device, non_blocking=True)
    return Outputs(model(images, places), places)


def _loss(
    outputs: Outputs, packed: Tensor, config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    logits, exchanged = outputs
    maps, boxes, labels = unpacked(packed)
    targets = token_labels.targets(
        maps,
        boxes,
        labels,
        logits.dense.shape[1],
        logits.pooled.shape[1],
        smoothing=config.label_smoothing,
        axes=config.label_axes,
    )
    loss = token_labels.loss(logits, targets, exchanged, dense_weight=config.dense_weight)
    return loss, {
        "loss": loss.detach() * len(labels),
        "accuracy": _right(logits.pooled.detach(), labels, exchanged),
    }


def _right(logits: Tensor, labels: Tensor, exchanged: Tensor) -> Tensor:
    """How many images have their class as the best, each of two that are mixed by its share."""
    best, other = logits.argmax(-1), exchanged.float().mean()
    return (1 - other) * (best == labels).sum() + other * (best == labels.flip(0)).sum()
