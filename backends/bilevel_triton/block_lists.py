"""The block lists of a call: which regions each of its tiles streams."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_triton import memory
from bilevel_triton.call import Call
from bilevel_triton.kernels.block_lists import count_q_blocks, list_kv_blocks, list_q_blocks
from bilevel_triton.tiles import Tiles, power_of_two

CANDIDATES = 64
"""Regions that a program tests together for its block list."""

CHUNK = 4
"""Length of a chunk of a block list of query regions, as a multiple of the average list's."""


class KVBlockLists(NamedTuple):
    """For each tile of queries, the key regions it streams."""

    kv_indices: Tensor
    group_masks: Tensor
    """int32, in all as many as there are routes."""
    kv_num_blocks: Tensor
    """int32 ``(N, groups)``"""


class QBlockLists(NamedTuple):
    """For each group of key regions, the query regions it streams, in chunks."""

    q_indices: Tensor
    group_masks: Tensor
    """int32, in all as many as there are routes."""
    q_num_blocks: Tensor
    """int32 ``(N, groups)``"""
    chunks: Tensor
    """int32 ``(N, num_chunks, 4)``: first entry, end, group, partial gradient or -1."""
    group_partials: Tensor
    """int32 ``(N, groups, 2)``: the first partial gradient of each group and their number."""
    num_chunks: int


class RouteTable(NamedTuple):
    """The routes, as kernels read them."""

    table: Tensor
    """Integer ``(N, R, k)``, contiguous."""
    num_regions: int
    """R, the regions of queries."""
    topk: int


class BlockListMeta(NamedTuple):
    """The constants that a kernel for block lists is compiled for."""

    of_queries: bool
    """Whether groups are of query regions, and lists of key regions; else the reverse."""
    group_size: int
    candidates_per_step: int
    routes_per_step: int


def kv_block_lists(call: Call, tiles: Tiles) -> KVBlockLists:
    """The key regions that each tile of queries streams."""
    if tiles.group_size == 1:  # the routes of a region are its list, without masks or lengths
        return KVBlockLists(call.index, call.index, call.index)
    groups = tiles.count(call.queries)
    block_lists = KVBlockLists(*_empty_lists(call, groups))
    list_kv_blocks[(call.images * groups,)](
        _routes(call),
        block_lists,
        groups,
        call.keys.num_regions,
        **_options(call, tiles, of_queries=True),
    )
    return block_lists


def q_block_lists(call: Call, tiles: Tiles) -> tuple[QBlockLists, int]:
    """The query regions that each tile of keys streams; and the largest number of partial
    gradients of an image."""
    groups = -(-call.keys.num_regions // tiles.group_size)
    entries = call.queries.num_regions * call.topk
    average = -(-entries // groups)
    chunk_size = tiles.regions_per_step * -(-CHUNK * average // tiles.regions_per_step)
    has_chunks = chunk_size < call.queries.num_regions  # else no list is longer
    num_chunks = groups + (entries // chunk_size if has_chunks else 0)
    chunks = memory.empty(call.index, (call.images, num_chunks, 4), torch.int32)
    group_partials = memory.empty(call.index, (call.images, groups, 2), torch.int32)
    block_lists = QBlockLists(*_empty_lists(call, groups), chunks, group_partials, num_chunks)
    grid, options = (call.images * groups,), _options(call, tiles, of_queries=False)
    count_q_blocks[grid](_routes(call), block_lists, groups, **options)
    list_q_blocks[grid](_routes(call), block_lists, groups, chunk_size, **options)
    return block_lists, 2 * entries // chunk_size if has_chunks else 0


def _empty_lists(call: Call, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, group masks and lengths."""
    indices, masks = (memory.empty(call.index, call.index.shape, torch.int32) for _ in range(2))
    return indices, masks, memory.empty(call.index, (call.images, groups), torch.int32)


def _routes(call: Call) -> RouteTable:
    return RouteTable(call.index, call.queries.num_regions, call.topk)


def _options(call: Call, tiles: Tiles, *, of_queries: bool) -> dict[str, Any]:
    routes_per_step = power_of_two(call.topk, CANDIDATES)
    meta = BlockListMeta(of_queries, tiles.group_size, CANDIDATES, routes_per_step)
    return {"META": meta, "num_warps": 4, "enable_fp_fusion": True}
