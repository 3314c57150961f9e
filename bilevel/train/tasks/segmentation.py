"""Segmentation: the class of every pixel, cross entropy, mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bilevel import heads
from bilevel.models import BiFormerConfig
from bilevel.models.backbone import Backbone
from bilevel.train.config import SegmentationHead, TrainConfig
from bilevel.train.data import Batch
from bilevel.train.dense.measures import IGNORED, confusion, mean_iou
from bilevel.train.metrics import Sums
from bilevel.train.pictures import SHEET, Seen, sheet
from bilevel.train.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_WIDTH = 64
"""Channels of the first stage from which on heads are as wide as the official ones."""
NARROW = 64
"""Channels of the heads of narrower models."""
SHOWN = 3
"""Classes that are named of an image, those of the most pixels."""


def segmentation(config: TrainConfig) -> Task:
    """Targets are labels, int64 ``(N, H, W)``, 255 where a pixel has none; outputs are logits
    ``(N, classes, H, W)``, in training those of an auxiliary head too."""
    return Task(
        model=partial(_model, head=config.head),
        targets=lambda batch: batch.labels,
        outputs=lambda model, images, _: model(images),
        loss=_loss,
        measure=_measure,
        summary=_summary,
        describe=_describe,
        draw=_draw,
    )


def _model(config: BiFormerConfig, head: SegmentationHead) -> nn.Module:
    backbone, narrow = Backbone(config), config.embed_dims[0] < FULL_WIDTH
    if head == "upernet":
        options = {"channels": NARROW} if narrow else {}
        return heads.upernet(backbone, config.num_classes, **options)
    options = {"channels": NARROW, "pyramid_channels": NARROW} if narrow else {}
    return heads.semantic_fpn(backbone, config.num_classes, **options)


def _loss(outputs: Any, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = heads.segmentation_loss(outputs, labels)
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    right = (logits.detach().argmax(1) == labels).float().mean((1, 2))
    return loss, {"loss": loss.detach() * len(labels), "accuracy": right.sum()}


def _measure(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The loss, and how many pixels of each class were taken for which."""
    loss = heads.segmentation_loss(logits, labels)
    confused = confusion(logits.argmax(1), labels, logits.shape[1])
    return {"loss": loss * len(labels), "confusion": confused}


def _summary(sums: Sums) -> dict[str, float]:
    of_pixels = mean_iou(sums.values["confusion"].cpu())
    return {"loss": sums.mean("loss"), "accuracy": of_pixels["aAcc"], "mIoU": of_pixels["mIoU"]}


def _describe(logits: Tensor, classes: Sequence[str]) -> list[str]:
    """The classes of the most pixels of each image, with their shares."""
    said = []
    for image in logits.argmax(1):
        counts = torch.bincount(image.flatten(), minlength=len(classes))
        most = counts.argsort(descending=True, stable=True)[:SHOWN].tolist()
        shares = [(classes[i], int(counts[i]) / image.numel()) for i in most if counts[i]]
        said.append(", ".join(f"{name} {share:.4f}" for name, share in shares))
    return said


def _draw(model: nn.Module, batches: Iterable[Batch], classes: Sequence[str]) -> Figure:
    """Test images, each above what it was taken for and its share of right pixels."""
    seen: list[Seen] = []
    for images, labels in batches:
        found = model(images).argmax(1)
        for image, each, wanted in zip(images, found, labels, strict=True):
            known = wanted != IGNORED
            share = float((each == wanted)[known].float().mean()) if known.any() else 0.0
            picture = torch.cat([_from_0_to_1(image), _colored(each, len(classes))], dim=1)
            seen.append(Seen(picture.cpu(), f"{share:.2f}", share >= 0.5))
        if len(seen) >= SHEET:
            break
    return sheet(seen[:SHEET], "image, prediction, share of right pixels")


def _from_0_to_1(image: Tensor) -> Tensor:
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp(min=1e-6)


def _colored(labels: Tensor, classes: int) -> Tensor:
    """A color for each class, ``(3, H, W)``: black is the first."""
    draw = torch.Generator().manual_seed(0)
    colors = torch.rand(classes, 3, generator=draw).to(labels.device)
    colors[0] = 0
    return colors[labels].permute(2, 0, 1)
