"""BRA by FlexAttention: tokens in region order, and a mask whose blocks are the regions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel.errors import ShapeError
from bilevel.grid import Grid
from bilevel.ops import merge, partition, route, summarize

if TYPE_CHECKING:  # it takes seconds to import
    from torch.nn.attention.flex_attention import BlockMask

SMALLEST_TILE = 16
"""Tokens in the smallest tile that FlexAttention multiplies."""

DEFAULT_TILE = 128
"""Tokens in the tiles that FlexAttention chooses; smaller blocks need tiles of their own size."""


def compiled() -> Callable[..., Any]:
    """FlexAttention as a fused kernel; without torch.compile it stores all scores."""
    from torch.nn.attention import flex_attention

    return torch.compile(flex_attention.flex_attention, dynamic=False)


def flex_bra(
    attend: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, topk: int, regions: int
) -> Tensor:
    """:func:`bilevel.bra` on ``(N, H, W, M, D)``; this call builds its own mask."""
    grid = Grid(q.shape[1:3], regions)
    mask = block_mask(routed_regions(q, k, topk, regions), grid)
    queries, keys, values = (in_region_order(x, grid) for x in (q, k, v))
    out = flex_routed(attend, queries, keys, values, mask)
    n, m, _, d = out.shape
    return merge(out.transpose(1, 2).reshape(n, grid.num_regions, -1, m, d), grid)


def flex_routed(
    attend: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, mask: BlockMask
) -> Tensor:
    """The kernel alone, on ``(N, M, R * T, D)`` in region order."""
    size = mask.BLOCK_SIZE[0]
    tiles = ("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")
    options = None if size >= DEFAULT_TILE else dict.fromkeys(tiles, size)
    out: Tensor = attend(q, k, v, block_mask=mask, kernel_options=options)
    return out


def in_region_order(x: Tensor, grid: Grid) -> Tensor:
    """``(N, H, W, M, D)`` to ``(N, M, R * T, D)``."""
    n, *_, m, d = x.shape
    return partition(x, grid).reshape(n, prod(grid.spatial), m, d).transpose(1, 2)


def routed_regions(q: Tensor, k: Tensor, topk: int, regions: int) -> Tensor:
    """The key regions ``(N, R, topk)`` of each query region, for ``routes=`` or a mask."""
    grid = Grid(q.shape[1:3], regions)
    return route(summarize(q, grid), summarize(k, grid), topk).index


def block_mask(index: Tensor, grid: Grid) -> BlockMask:
    """A mask whose blocks are the routed regions ``(N, R, k)``, each attended to as a whole.

    Raises ShapeError if regions differ in size, or if their tokens are not a power of two of at
    least :data:`SMALLEST_TILE`.
    """
    size = grid.region_tokens
    if size < SMALLEST_TILE or size & (size - 1) or not grid.uniform:
        raise ShapeError(
            f"expected regions of one size, a power of two of at least {SMALLEST_TILE} tokens, as "
            f"blocks for FlexAttention, got {grid} with up to {size} tokens in a region"
        )
    kv_num_blocks = torch.full_like(index[:, None, :, 0], index.shape[-1], dtype=torch.int32)
    kv_indices = F.pad(index[:, None].int(), (0, grid.num_regions - index.shape[-1]))
    from torch.nn.attention.flex_attention import BlockMask

    mask: BlockMask = BlockMask.from_kv_blocks(kv_num_blocks, kv_indices, BLOCK_SIZE=size)
    return mask
