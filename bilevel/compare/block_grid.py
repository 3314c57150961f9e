"""Block and grid attention of MaxViT (Tu et al., ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend
from bilevel.compare.windows import from_grids, from_windows, grids, relative_bias, windows


class RelativePosition(nn.Module):
    """A learned bias for each offset of the key from the query in a window."""

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(heads, side, side))

    def forward(self) -> Tensor:
        """``(1, M, T, T)``"""
        bias = relative_bias(self.relative_position_bias_table, (self.window, self.window))
        return bias.transpose(-1, -2)  # the offset of key from query, not of query from key


class BlockGridAttention(nn.Module):
    """Each token attends to its window or, with ``grid``, to a set of as many tokens that are
    spread evenly over the whole map. Blocks do the one and the other in turn.

    Tokens are ``(N, H, W, dim)``; ``window`` has to divide the axes of the map.
    """

    def __init__(self, dim: int, heads: int, window: int = 7, grid: bool = False) -> None:
        super().__init__()
        self.heads, self.window, self.grid = heads, window, grid
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos = RelativePosition(heads, window)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.window, self.window)
        apart, together = (grids, from_grids) if self.grid else (windows, from_windows)
        q, k, v = apart(self.qkv(x), size).chunk(3, -1)
        return self.proj(
            together(attend(q, k, v, self.heads, self.rel_pos()), size, tuple(x.shape))
        )
