"""BRA by FlexAttention: a mask of blocks, which are the regions, and tokens in their order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from bilevel.errors import ShapeError
from bilevel.grid import Grid
from bilevel.ops import merge, partition, route, summarize

SMALLEST = 16
"""Tokens of a tile that FlexAttention multiplies."""

WHOLE_TILES = 128
"""Tokens of a region in which its own choice of tiles fits; smaller ones need tiles of theirs."""


def compiled() -> Callable[..., Any]:
    """FlexAttention, fused; without torch.compile it keeps all scores."""
    return torch.compile(flex_attention, dynamic=False)


def flex_bra(
    attend: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, topk: int, regions: int
) -> Tensor:
    """:func:`bilevel.bra` on ``(N, H, W, M, D)``, with a mask that is built for this call."""
    grid = Grid(q.shape[1:3], regions)
    mask = block_mask(routes(q, k, topk, regions), grid)
    queries, keys, values = (in_region_order(x, grid) for x in (q, k, v))
    out = flex_routed(attend, queries, keys, values, mask)
    n, m, _, d = out.shape
    return merge(out.transpose(1, 2).reshape(n, grid.num_regions, -1, m, d), grid)


def flex_routed(
    attend: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, mask: BlockMask
) -> Tensor:
    """The kernel alone, on ``(N, M, R * T, D)`` in the order of regions."""
    size = mask.BLOCK_SIZE[0]
    tiles = ("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")
    options = None if size >= WHOLE_TILES else dict.fromkeys(tiles, size)
    out: Tensor = attend(q, k, v, block_mask=mask, kernel_options=options)
    return out


def in_region_order(x: Tensor, grid: Grid) -> Tensor:
    """``(N, H, W, M, D)`` to ``(N, M, R * T, D)``."""
    n, *_, m, d = x.shape
    return partition(x, grid).reshape(n, prod(grid.spatial), m, d).transpose(1, 2)


def routes(q: Tensor, k: Tensor, topk: int, regions: int) -> Tensor:
    """The key regions ``(N, R, topk)`` of every query region."""
    grid = Grid(q.shape[1:3], regions)
    return route(summarize(q, grid), summarize(k, grid), topk).index


def block_mask(index: Tensor, grid: Grid) -> BlockMask:
    """A mask whose blocks are the routed regions ``(N, R, k)``; nothing is masked within one.

    Raises ShapeError if regions differ in size or have less tokens than a tile.
    """
    size = grid.region_tokens
    if size < SMALLEST or size & (size - 1) or not grid.uniform:
        raise ShapeError(
            f"expected regions of a power of two of tokens, {SMALLEST} at least, for FlexAttention "
            f"to take them as blocks, got {size} tokens at most in {grid}"
        )
    counts = torch.full_like(index[:, None, :, 0], index.shape[-1], dtype=torch.int32)
    columns = F.pad(index[:, None].int(), (0, grid.num_regions - index.shape[-1]))
    mask: BlockMask = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=size)
    return mask
