"""Heads for semantic segmentation: the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.classifier = nn.Conv2d(channels, count("num_classes", num_classes), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)`` of the first map's size.

        Raises ShapeError if the maps are not of ``in_channels``.
        """
        given = tuple(x.shape[1] if x.ndim == 4 else None for x in maps)
        if given != self.in_channels:
            shapes = ", ".join(str(tuple(x.shape)) for x in maps)
            raise ShapeError(
                f"expected maps (N, C, H, W) of {self.in_channels} channels, got {shapes}"
            )
        named = {str(i): x for i, x in enumerate(maps)}
        pyramid = self.pyramid(named).values()
        first, *others = (level(x) for level, x in zip(self.levels, pyramid, strict=True))
        total = sum((_resized(x, first) for x in others), first)
        return self.classifier(self.dropout(total))


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Convolutions, each followed by a doubling of the size; a single one where there is none."""
    layers: list[nn.Module] = []
    for i in range(max(1, doublings)):
        layers += [
            nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the size of ``like``: where that is odd, doublings do not meet it."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
