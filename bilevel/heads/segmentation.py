"""Semantic FPN, and what heads for semantic segmentation, the class of every pixel, have alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.arguments import count
from bilevel.errors import ShapeError


class SemanticFPN(nn.Module):
    """Semantic FPN (Kirillov et al., CVPR 2019), as BiFormer is trained with it on ADE20K.

    A feature pyramid brings all maps to the same channels. Each level is convolved and enlarged,
    twofold at a time, to the size of the first; their sum is classified pixel by pixel. (BiFormer,
    section 4.3.)

    Parameters
    ----------
    in_channels
        Channels of the maps, those of stride 4 first, each of half the size of the one before.
    num_classes
        Classes of a pixel.
    channels
        Channels of the head.
    pyramid_channels
        Channels of the pyramid.
    dropout
        Probability with which training drops a channel before the classifier.

    Raises
    ------
    ArgumentError
        If a number of channels or classes is not positive.

    Examples
    --------
    >>> import torch
    >>> widths, strides = (64, 128, 256, 512), (4, 8, 16, 32)
    >>> head = SemanticFPN(widths, num_classes=150).eval()
    >>> maps = [torch.zeros(1, c, 128 // s, 96 // s) for c, s in zip(widths, strides)]
    >>> head(maps).shape
    torch.Size([1, 150, 32, 24])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 128,
        pyramid_channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        from torchvision.ops import FeaturePyramidNetwork  # which takes seconds to import

        super().__init__()
        widths = [count("in_channels", width) for width in in_channels]
        channels = count("channels", channels)
        pyramid_channels = count("pyramid_channels", pyramid_channels)
        self.in_channels = tuple(widths)
        self.pyramid = FeaturePyramidNetwork(widths, pyramid_channels)
        self.levels = nn.ModuleList(
            _level(pyramid_channels, channels, doublings) for doublings in range(len(widths))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)
        initialise(self)
        for conv in filter(_is_conv, self.pyramid.modules()):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)`` of the first map's size.

        Raises ShapeError if the maps are not of ``in_channels``.
        """
        check_maps(maps, self.in_channels)
        named = {str(i): x for i, x in enumerate(maps)}
        pyramid = self.pyramid(named).values()
        first, *others = (level(x) for level, x in zip(self.levels, pyramid, strict=True))
        total = sum((resized(x, first) for x in others), first)
        return self.classifier(self.dropout(total))


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Convolutions, each followed by a doubling of the size; a single one where there is none."""
    layers: list[nn.Module] = []
    for i in range(max(1, doublings)):
        layers += conv_norm(channels if i else in_channels, channels, 3)
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def conv_norm(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The last layer of a head."""
    return nn.Conv2d(channels, count("num_classes", num_classes), 1)


def initialise(head: nn.Module) -> None:
    """Weights as mmsegmentation, which the official code trains with, draws them; by the name of
    the classifier, those of the last layer."""
    for name, module in head.named_modules():
        if not _is_conv(module):
            continue
        if name == "classifier":
            nn.init.normal_(module.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _is_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d)


def check_maps(maps: Sequence[Tensor], in_channels: tuple[int, ...]) -> None:
    """Raise ShapeError unless there is a map ``(N, C, H, W)`` for each number of channels."""
    given = tuple(x.shape[1] if x.ndim == 4 else None for x in maps)
    if given != in_channels:
        shapes = ", ".join(str(tuple(x.shape)) for x in maps)
        raise ShapeError(f"expected maps (N, C, H, W) of {in_channels} channels, got {shapes}")


def resized(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the size of ``like``; a copy where that is its own, so that traces serve others."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
