"""Classification: one class per image, cross entropy, accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bilevel.models import BiFormer
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.findings import findings
from bilevel.train.lettering import caption
from bilevel.train.metrics import Sums
from bilevel.train.pictures import SHEET, Seen, sheet
from bilevel.train.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def classification(config: TrainConfig) -> Task:
    """Targets are labels, int64 ``(N,)``, or where they are mixed, the probability of each class
    ``(N, classes)``; outputs are logits ``(N, classes)``."""
    return Task(
        model=BiFormer,
        targets=lambda batch: batch.labels,
        outputs=lambda model, images, _: model(images),
        loss=partial(_loss, label_smoothing=config.label_smoothing),
        measure=_measure,
        summary=Sums.means,
        describe=_describe,
        draw=_draw,
        examine=findings,
    )


def _loss(
    logits: Tensor, labels: Tensor, label_smoothing: float
) -> tuple[Tensor, dict[str, Tensor]]:
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss, _sums(loss.detach(), logits.detach(), labels)


def _measure(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return _sums(cross_entropy(logits, labels), logits, labels)


def _sums(loss: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """From the mean loss; accuracy is the share of images whose best class is their label, or where
    labels are mixed, its share of the label."""
    best = logits.argmax(-1)
    right = labels.gather(1, best[:, None]) if labels.is_floating_point() else best == labels
    return {"loss": loss * len(labels), "accuracy": right.sum()}


def _describe(logits: Tensor, classes: Sequence[str]) -> list[str]:
    """The best class of each image, and its probability."""
    probabilities, best = logits.softmax(-1).max(-1)
    return [
        f"{classes[index]} {probability:.4f}"
        for index, probability in zip(best.tolist(), probabilities.tolist(), strict=True)
    ]


def _draw(model: nn.Module, batches: Iterable[Batch], classes: Sequence[str]) -> Figure:
    """Test images, half of them errors if there are as many, then right ones."""
    wrong: list[Seen] = []
    right: list[Seen] = []
    for images, labels in batches:
        found = model(images).argmax(-1)
        for image, label, best in zip(images, labels.tolist(), found.tolist(), strict=True):
            seen = Seen(image, caption(classes[label], classes[best]), label == best)
            (right if seen.right else wrong).append(seen)
        wrong, right = wrong[: SHEET // 2], right[:SHEET]
    return sheet([*wrong, *right], "label → prediction")
