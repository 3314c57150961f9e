"""UPerNet's head: a feature pyramid over pooled maps; and the auxiliary head beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bilevel.arguments import count
from bilevel.heads.segmentation import check_maps, classifier, conv_norm, initialise, resized


class UPerNet(nn.Module):
    """UPerNet (Xiao et al., ECCV 2018), as BiFormer is trained with it on ADE20K.

    The last map is pooled to a few grids, which are enlarged and convolved with it; a feature
    pyramid goes down from there. All levels, in the size of the first, are joined, convolved and
    classified pixel by pixel. (BiFormer, section 4.3.)

    Parameters
    ----------
    in_channels
        Channels of the maps, the largest map first.
    num_classes
        Classes of a pixel.
    channels
        Channels of the head.
    pools
        Places on each axis of the grids that the last map is pooled to.
    dropout
        Probability with which training drops a channel before the classifier.

    Raises
    ------
    ArgumentError
        If a number of channels, classes or places is not positive.

    Examples
    --------
    >>> import torch
    >>> head = UPerNet((64, 128, 256, 512), num_classes=150, channels=32).eval()
    >>> maps = [torch.zeros(1, 64 * 2**i, 16 // 2**i, 12 // 2**i) for i in range(4)]
    >>> head(maps).shape
    torch.Size([1, 150, 16, 12])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        pools: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels = tuple(count("in_channels", width) for width in in_channels)
        channels = count("channels", channels)
        *widths, last = self.in_channels
        self.pooled = nn.ModuleList(
            nn.Sequential(Pool(count("pools", size)), conv_norm(last, channels, 1))
            for size in pools
        )
        self.bottleneck = conv_norm(last + len(self.pooled) * channels, channels, 3)
        self.lateral = nn.ModuleList(conv_norm(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(conv_norm(channels, channels, 3) for _ in widths)
        self.fuse = conv_norm(len(self.in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)`` of the first map's size.

        Raises ShapeError if the maps are not of ``in_channels``.
        """
        check_maps(maps, self.in_channels)
        *finer, last = maps
        pooled = [resized(pool(last), last) for pool in self.pooled]
        levels = [self.bottleneck(torch.cat([last, *pooled], dim=1))]
        for lateral, x in zip(reversed(self.lateral), reversed(finer), strict=True):
            x = lateral(x)
            levels.insert(0, x + resized(levels[0], x))
        smoothed = [each(x) for each, x in zip(self.smooth, levels, strict=False)]
        first, *others = [*smoothed, levels[-1]]  # the last one, which is smooth, as it is
        joined = torch.cat([first, *(resized(x, first) for x in others)], dim=1)
        return self.classifier(self.dropout(self.fuse(joined)))


class Auxiliary(nn.Module):
    """A convolution and a classifier on one map, whose loss helps to train what is below it: the
    fully convolutional network (Long et al., CVPR 2015) beside UPerNet."""

    def __init__(
        self, in_channels: int, num_classes: int, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.conv = conv_norm(in_channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """A map ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)``."""
        return self.classifier(self.dropout(self.conv(x)))


class Pool(nn.Module):
    """``AdaptiveAvgPool2d`` by two products with matrices, which exporters take for any size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = (self._means(n, x) for n in (height, width))
        return rows @ x @ columns.T

    def _means(self, length: int, like: Tensor) -> Tensor:
        """``(size, length)``: the weight of each place of an axis in the mean of each bin."""
        place = torch.arange(length, device=like.device)
        i = torch.arange(self.size, device=like.device)[:, None]
        first, end = i * length // self.size, ((i + 1) * length + self.size - 1) // self.size
        within = ((place >= first) & (place < end)).to(like.dtype)
        return within / within.sum(1, keepdim=True)

    def extra_repr(self) -> str:
        return f"size={self.size}"
