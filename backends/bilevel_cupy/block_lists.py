"""The lists of integers that the kernels of a call read: tokens of regions, and block lists.

They are made on the device at each call: what was kept may be in use on another stream.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Array
from bilevel_cupy.call import Call, axes_by_value
from bilevel_cupy.kernels import kernel
from bilevel_cupy.launch import WARP, TiledKernel

THREADS = 128
"""Threads of a block that writes a token table; any number would do."""


class TokenTables(NamedTuple):
    """The tokens of the regions of queries and of keys, int32 ``(R, T)``; -1 where a region has no
    token at a position."""

    q: Array
    k: Array


class BlockLists(NamedTuple):
    """The regions that each tile streams, as ``kernels/streamed.cuh`` reads them."""

    indices: Array
    """``kv_indices`` or ``q_indices``."""
    group_masks: Array
    ranges: Array
    """Where each list begins, and its ``kv_num_blocks`` or ``q_num_blocks``."""


def token_tables(xp: Any, call: Call) -> TokenTables:
    q_table = _token_table(xp, call.q_grid)
    same = call.k_grid == call.q_grid
    return TokenTables(q_table, q_table if same else _token_table(xp, call.k_grid))


def _token_table(xp: Any, grid: Grid) -> Array:
    regions, region_tokens = grid.num_regions, grid.region_tokens
    table = xp.empty((regions, region_tokens), dtype=np.int32)
    arguments = (table, axes_by_value(grid), np.int32(regions), np.int32(region_tokens))
    blocks = (ceil(regions * region_tokens / THREADS),)
    kernel(xp, "write_token_table")(blocks, (THREADS,), arguments)
    return table


def kv_block_lists(xp: Any, of: TiledKernel) -> BlockLists:
    """The key regions that tiles of queries stream; a region alone in its tiles, its routes."""
    index = of.call.index
    if of.tiles.group == 1:
        return BlockLists(index, index, index)
    return _block_lists(xp, of, index, of.tiles.per_image)


def q_block_lists(xp: Any, of: TiledKernel) -> BlockLists:
    """The query regions that tiles of keys stream."""
    index, group = of.call.index, of.tiles.group
    groups = ceil(of.stationary.num_regions / group)
    q_num_blocks = xp.empty((of.call.images, groups), dtype=np.int32)
    sizes = (of.streamed.num_regions, of.call.topk, group, groups)
    arguments = (index, q_num_blocks, *map(np.int32, sizes))
    kernel(xp, "count_q_blocks")((of.call.images * groups,), (WARP,), arguments)
    return _block_lists(xp, of, q_num_blocks, groups)


def _block_lists(xp: Any, of: TiledKernel, q_num_blocks: Array, groups: int) -> BlockLists:
    """``q_num_blocks`` is read where keys are stationary alone."""
    index = of.call.index
    indices, group_masks = (xp.empty(index.shape, dtype=x) for x in (np.int32, np.uint32))
    ranges = xp.empty((of.call.images, groups, 2), dtype=np.int32)
    q_regions = of.call.q_grid.num_regions
    sizes = (q_regions, of.call.topk, of.streamed.num_regions, of.tiles.group, groups)
    arguments = (index, q_num_blocks, indices, group_masks, ranges, *map(np.int32, sizes))
    name = f"list_blocks<{str(of.keys_stationary).lower()}>"
    kernel(xp, name)((of.call.images * groups,), (WARP,), arguments)
    return BlockLists(indices, group_masks, ranges)
