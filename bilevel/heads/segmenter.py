"""Whole segmenters: a backbone, a head, and the auxiliary head beside it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.heads.pyramid_pooling import Auxiliary, UPerNet
from bilevel.heads.segmentation import SemanticFPN
from bilevel.models.backbone import Backbone
from bilevel.models.config import BackboneConfig

IGNORED = 255
"""The label of pixels that have none."""
AUXILIARY_WEIGHT = 0.4
AUXILIARY_STAGE = -2
"""The map that the auxiliary head is on: the third of four."""


class Segmenter(nn.Module):
    """A backbone with a head: images to the logits of every pixel."""

    def __init__(
        self, backbone: Backbone, head: nn.Module, auxiliary: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary

    @property
    def config(self) -> BackboneConfig:
        """That of the backbone."""
        return self.backbone.config

    def forward(self, images: Tensor) -> Any:
        """Images ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)``; in training, where there is
        an auxiliary head, a pair of these and of the auxiliary logits."""
        maps = self.backbone(images)
        logits = _enlarged(self.head(maps), images)
        if self.training and self.auxiliary is not None:
            return logits, _enlarged(self.auxiliary(maps[AUXILIARY_STAGE]), images)
        return logits

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute each block of the backbone again in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


def semantic_fpn(backbone: Backbone, num_classes: int, **options: Any) -> Segmenter:
    """Semantic FPN on a backbone, as the paper has it (section 4.3); ``options`` are of
    :class:`SemanticFPN`.

    Examples
    --------
    >>> import torch
    >>> from bilevel.heads import backbone
    >>> model = semantic_fpn(backbone("biformer_micro", "semantic_fpn"), 150).eval()
    >>> model(torch.zeros(1, 3, 64, 80)).shape
    torch.Size([1, 150, 64, 80])
    """
    return Segmenter(backbone, SemanticFPN(backbone.out_channels, num_classes, **options))


def upernet(backbone: Backbone, num_classes: int, **options: Any) -> Segmenter:
    """UPerNet on a backbone with the auxiliary head on its third map, as the paper has it
    (section 4.3); ``options`` are of :class:`UPerNet`.

    Examples
    --------
    >>> import torch
    >>> from bilevel.heads import backbone
    >>> model = upernet(backbone("biformer_micro", "upernet"), 150, channels=32).train()
    >>> [tuple(x.shape) for x in model(torch.zeros(2, 3, 64, 80))]
    [(2, 150, 64, 80), (2, 150, 64, 80)]
    """
    head = UPerNet(backbone.out_channels, num_classes, **options)
    auxiliary = Auxiliary(backbone.out_channels[AUXILIARY_STAGE], num_classes)
    return Segmenter(backbone, head, auxiliary)


def segmentation_loss(outputs: Any, labels: Tensor) -> Tensor:
    """The mean cross entropy of all pixels that have a label, and 0.4 times that of the auxiliary
    logits where there are some.

    ``outputs`` are those of a :class:`Segmenter` in training; ``labels`` int64 ``(N, H, W)``, 255
    where a pixel has none. Where no pixel has one, the loss is 0.
    """
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = _cross_entropy(logits, labels)
    for each in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * _cross_entropy(each, labels)
    return loss


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _enlarged(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
