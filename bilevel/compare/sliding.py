"""Sliding-window attention (stand-alone self-attention, Ramachandran et al., NeurIPS 2019), in the
form of neighbourhood attention (Hassani et al., CVPR 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend
from bilevel.compare.windows import from_windows, windows


class SlidingAttention(nn.Module):
    """Each token attends to the ``kernel`` x ``kernel`` tokens around it.

    At a border the papers differ: the first pads with zeros, which take part in the softmax; the
    second moves the window inside the map, so that every token has as many keys. This is the
    second. A learned bias for each offset, as in the second's published models.

    Neighbours share most of their keys, so a tile of queries is multiplied with all keys that any
    of them attends to, and the others are masked: at a kernel of 7, 3.4 times as many products as
    are used, without which each key would be copied 49 times.

    Tokens are ``(N, H, W, dim)``; an axis with fewer tokens than ``kernel`` is attended to whole.
    """

    def __init__(self, dim: int, heads: int, kernel: int = 7) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.rpb = nn.Parameter(torch.zeros(heads, 2 * kernel - 1, 2 * kernel - 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_axis(length, self.kernel, x.device) for length in x.shape[1:3])
        size = (rows.tile, columns.tile)
        q, k, v = self.qkv(x).chunk(3, -1)
        near_k, near_v = (_near(y, rows.keys, columns.keys) for y in (k, v))
        bias = self._bias(rows, columns).repeat(len(x), 1, 1, 1)
        out = attend(windows(q, size), near_k, near_v, self.heads, bias)
        return self.proj(from_windows(out, size, tuple(x.shape)))

    def _bias(self, rows: _Axis, columns: _Axis) -> Tensor:
        """``(tiles, M, queries, keys)``; minus infinity for keys outside a query's window."""
        bias = self.rpb[:, rows.offset][..., columns.offset]
        seen = rows.seen[..., None, None, None] & columns.seen
        bias = bias.masked_fill(~seen, -torch.inf)  # (M, tiles, queries, keys of an axis, the same)
        return bias.permute(1, 4, 0, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(0, 1)


class _Axis(NamedTuple):
    """An axis of a map, in tiles of queries that share their keys."""

    tile: int
    """Queries of a tile."""
    keys: Tensor
    """The places of each tile's keys, ``(tiles, keys)``."""
    seen: Tensor
    """Whether a key is in the window of a query, ``(tiles, queries, keys)``."""
    offset: Tensor
    """How far a key is from a query, counted from 0; for keys that are seen."""


def _axis(length: int, kernel: int, device: torch.device) -> _Axis:
    """Tiles as large as a kernel, or the next smaller size that divides the axis."""
    tile = max(size for size in range(1, kernel + 1) if length % size == 0)
    wide, span = min(kernel, length), min(tile + kernel - 1, length)
    place = torch.arange(length, device=device).unflatten(0, (-1, tile))
    first = (place - kernel // 2).clamp(0, length - wide)  # of each window
    keys = first[:, :1].clamp(max=length - span) + torch.arange(span, device=device)
    key = keys[:, None]
    seen = (key >= first[..., None]) & (key < first[..., None] + wide)
    offset = (key - place[..., None] + kernel - 1).clamp(0, 2 * kernel - 2)
    return _Axis(tile, keys, seen, offset)


def _near(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The keys of each tile, ``(N * tiles, keys, C)``, of a map ``(N, H, W, C)``."""
    x = x.index_select(1, rows.flatten()).unflatten(1, rows.shape)
    x = x.index_select(3, columns.flatten()).unflatten(3, columns.shape)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)
