"""The walks of a call: lists of regions for its tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_triton import memory
from bilevel_triton.call import Call
from bilevel_triton.kernels.walks import count_walks, walk_from_keys, walk_from_queries
from bilevel_triton.tiles import Tiles, fitting

CANDIDATES = 64
"""Regions that are looked at together."""

CHUNK = 4
"""A walk of keys is split into chunks of so many times the average length."""


class QueryWalks(NamedTuple):
    """The walks of all tiles of queries."""

    regions: Tensor
    members: Tensor
    counts: Tensor
    """int32 ``(N, groups)``"""


class KeyWalks(NamedTuple):
    """The walks of all groups of key regions, in chunks."""

    regions: Tensor
    members: Tensor
    counts: Tensor
    tasks: Tensor
    """int32 ``(N, num_tasks, 4)``"""
    spans: Tensor
    """int32 ``(N, groups, 2)``"""
    num_tasks: int


class Routes(NamedTuple):
    """The routes, as kernels read them."""

    table: Tensor
    """Integer ``(N, R, k)``"""
    regions: int
    """Of the queries."""
    topk: int


class How(NamedTuple):
    """What kernels are compiled for."""

    of_queries: bool
    group: int
    candidates: int
    slots: int


def from_queries(call: Call, tiles: Tiles) -> QueryWalks:
    """The key regions that each tile of queries walks over."""
    if tiles.group == 1:
        return QueryWalks(call.index, call.index, call.index)  # each region walks over its routes
    groups = tiles.count(call.queries)
    walks = QueryWalks(*_lists(call, groups))
    walk_from_queries[(call.images * groups,)](
        _routes(call), walks, groups, call.keys.regions, **_how(call, tiles, of_queries=True)
    )
    return walks


def from_keys(call: Call, tiles: Tiles) -> tuple[KeyWalks, int]:
    """The query regions that each tile of keys walks over; and the most partial results that an
    image may have."""
    groups = -(-call.keys.regions // tiles.group)
    entries = call.queries.regions * call.topk
    average = -(-entries // groups)
    chunk = tiles.per * -(-CHUNK * average // tiles.per)
    split = chunk < call.queries.regions  # else no walk is longer
    num_tasks = groups + (entries // chunk if split else 0)
    tasks = memory.empty(call.index, (call.images, num_tasks, 4), torch.int32)
    spans = memory.empty(call.index, (call.images, groups, 2), torch.int32)
    walks = KeyWalks(*_lists(call, groups), tasks, spans, num_tasks)
    grid, how = (call.images * groups,), _how(call, tiles, of_queries=False)
    count_walks[grid](_routes(call), walks, groups, **how)
    walk_from_keys[grid](_routes(call), walks, groups, chunk, **how)
    return walks, 2 * entries // chunk if split else 0


def _lists(call: Call, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    regions, members = (memory.empty(call.index, call.index.shape, torch.int32) for _ in range(2))
    return regions, members, memory.empty(call.index, (call.images, groups), torch.int32)


def _routes(call: Call) -> Routes:
    return Routes(call.index, call.queries.regions, call.topk)


def _how(call: Call, tiles: Tiles, *, of_queries: bool) -> dict[str, Any]:
    slots = fitting(call.topk, CANDIDATES)
    how = How(of_queries, tiles.group, CANDIDATES, slots)
    return {"HOW": how, "num_warps": 4, "enable_fp_fusion": True}
