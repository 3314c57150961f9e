"""Spatially separable attention of Twins-SVT (Chu et al., NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from bilevel.axes import convolved
from bilevel.compare.attend import attend
from bilevel.compare.windows import from_windows, windows


class LocallyGroupedAttention(nn.Module):
    """The first half of the separation: attention within windows, without a bias for the position.

    Tokens are ``(N, H, W, dim)``; windows of ``window`` x ``window`` have to tile the map.
    """

    def __init__(self, dim: int, heads: int, window: int = 7) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.window, self.window)
        q, k, v = windows(self.qkv(x), size).chunk(3, -1)
        return self.proj(from_windows(attend(q, k, v, self.heads), size, tuple(x.shape)))


class GlobalSubsampledAttention(nn.Module):
    """The second half: all tokens attend to a few, each a summary of ``reduction`` x ``reduction``
    tokens by a convolution. With a reduction of 1 it is attention of all tokens to all.

    Tokens are ``(N, H, W, dim)``.
    """

    def __init__(self, dim: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        few = x if self.reduction == 1 else self.norm(convolved(self.sr, x))
        k, v = self.kv(few).flatten(1, 2).chunk(2, -1)
        out = attend(self.q(x).flatten(1, 2), k, v, self.heads)
        return self.proj(out.reshape(x.shape))
