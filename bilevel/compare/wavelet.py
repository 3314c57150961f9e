"""Wavelet attention of WaveViT (Yao et al., ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last
from bilevel.compare.attend import attend
from bilevel.errors import ShapeError


def haar(x: Tensor) -> Tensor:
    """The Haar transform of ``(N, C, H, W)``, H and W even: ``(N, 4 * C, H / 2, W / 2)``.

    All sums of 2 x 2 pixels, then the differences of rows, of columns, and of both, each halved.
    Raises ShapeError if an axis is odd.
    """
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        raise ShapeError(
            f"expected a map of even height and width, got {height} x {width}; choose another size "
            "of images"
        )
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return torch.cat((a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d), 1) / 2


def inverse_haar(x: Tensor) -> Tensor:
    """The inverse of :func:`haar`. (The transform of four numbers is its own inverse.)"""
    s, rows, columns, both = x.chunk(4, 1)
    a, b = s + rows + columns + both, s + rows - columns - both
    c, d = s - rows + columns - both, s - rows - columns + both
    quads = torch.stack((a, b, c, d), -1).unflatten(-1, (2, 2)) / 2
    return quads.transpose(3, 4).flatten(4).flatten(2, 3)


class WaveletAttention(nn.Module):
    """All tokens attend to a small map that a wavelet transform made, which loses nothing.

    The input, of a quarter of the channels, is transformed: half the size, four times the channels.
    A convolution filters that; a smaller map of it gives keys and values. What the inverse
    transform makes of it is given to the output beside the attention.

    Tokens are ``(N, H, W, dim)``, H and W even. ``reduction`` is how many times smaller, on an
    axis, the map of keys is than the transformed one.
    """

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.reduce = nn.Sequential(
            nn.Conv2d(dim, dim // 4, 1), nn.BatchNorm2d(dim // 4), nn.ReLU()
        )
        self.filter = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU()
        )
        self.kv_embed = (
            nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else nn.Identity()
        )
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim))
        self.proj = nn.Linear(dim + dim // 4, dim)

    def forward(self, x: Tensor) -> Tensor:
        filtered = self.filter(haar(self.reduce(channels_first(x))))
        k, v = self.kv(channels_last(self.kv_embed(filtered)).flatten(1, 2)).chunk(2, -1)
        out = attend(self.q(x).flatten(1, 2), k, v, self.heads).reshape(x.shape)
        return self.proj(torch.cat((out, channels_last(inverse_haar(filtered))), -1))
