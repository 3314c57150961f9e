"""Which regions the tile of a kernel walks over, found on the device.

A tile holds a *group* of neighbouring regions of one side, queries or keys, and walks over the
regions of the other side that are routed together with any of them. A walk is a list of regions in
ascending order, each with its *members*: bit g is set if it is routed together with region g of
the group. The lists of an image lie one after the other, in as much memory as the routes take, for
each pair of a query region and a routed key region is in one list.

Nothing is sorted, and no program waits for another or adds to what another wrote: the same routes
give the same lists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bilevel_triton import memory
from bilevel_triton.call import Call
from bilevel_triton.tiles import Tiles, fitting


@triton.jit
def members_of(
    index,
    row0,
    first,
    candidate,
    num_regions,
    topk,
    OF_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The members of candidate regions, 0 where none is routed together with one.

    ``row0`` is the row of the index that holds the first query region of the image, of which there
    are ``num_regions``; ``first`` is the first region of the group.
    """
    found = tl.zeros_like(candidate)
    for start in range(0, topk, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        if OF_QUERIES:
            for g in range(GROUP):
                routes = tl.where(first + g < num_regions, topk, 0)
                rows = (row0 + first + g) * topk + slot
                routed = tl.load(index + rows, mask=slot < routes, other=-1)
                hit = candidate[:, None] == routed[None, :].to(tl.int32)
                found |= tl.max(hit.to(tl.int32), 1) << g
        else:
            held = (candidate < num_regions)[:, None] & (slot < topk)[None, :]
            rows = (row0 + candidate)[:, None] * topk + slot[None, :]
            routed = tl.load(index + rows, mask=held, other=-1).to(tl.int32)
            for g in range(GROUP):
                found |= tl.max((routed == first + g).to(tl.int32), 1) << g
    return found


@triton.jit
def count_walks(
    index,
    counts,
    num_regions,
    groups,
    topk,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TOPK: tl.constexpr,
):
    """How many query regions the group of key regions of each program walks over."""
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    row0 = image.to(tl.int64) * num_regions
    found = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_regions, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        members = members_of(
            index, row0, group * GROUP, candidate, num_regions, topk, False, GROUP, BLOCK_TOPK
        )
        found += (members != 0).to(tl.int32)
    tl.store(counts + tl.program_id(0), tl.sum(found, 0))


@triton.jit
def write_walk(
    index,
    row0,
    first,
    num_regions,
    num_candidates,
    topk,
    regions,
    members,
    OF_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TOPK: tl.constexpr,
):
    """Write the walk of one group to ``regions`` and ``members``; return its length."""
    written = 0
    for start in range(0, num_candidates, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        of_candidate = members_of(
            index, row0, first, candidate, num_regions, topk, OF_QUERIES, GROUP, BLOCK_TOPK
        )
        found = of_candidate != 0
        place = written + tl.cumsum(found.to(tl.int32), 0) - 1
        tl.store(regions + place, candidate, mask=found)
        tl.store(members + place, of_candidate, mask=found)
        written += tl.sum(found.to(tl.int32), 0)
    return written


@triton.jit
def walk_from_queries(
    index,
    regions,
    members,
    counts,
    num_regions,
    num_key_regions,
    groups,
    topk,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TOPK: tl.constexpr,
):
    """The key regions that each group of query regions walks over: its list begins where the
    routes of its first region do."""
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    row0 = image.to(tl.int64) * num_regions
    begin = (row0 + group * GROUP) * topk
    written = write_walk(
        index,
        row0,
        group * GROUP,
        num_regions,
        num_key_regions,
        topk,
        regions + begin,
        members + begin,
        True,
        GROUP,
        BLOCK,
        BLOCK_TOPK,
    )
    tl.store(counts + tl.program_id(0), written)


@triton.jit
def walk_from_keys(
    index,
    counts,
    regions,
    members,
    tasks,
    spans,
    num_regions,
    groups,
    topk,
    chunk,
    num_tasks,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TOPK: tl.constexpr,
):
    """The query regions that each group of key regions walks over, in chunks of at most so many.

    A *task* of an image is one chunk: where it begins, where it ends, the group, and the place of
    its partial result in the workspace, or -1 where the group has one chunk and needs none. The
    tasks of all groups lie one after the other; what is left of ``num_tasks`` has group -1. The
    *span* of a group is the place of its first partial result, and how many there are.
    """
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    begin, task, partial = 0, 0, 0
    for start in range(0, group, BLOCK):
        before = start + tl.arange(0, BLOCK)
        count = tl.load(counts + image * groups + before, mask=before < group, other=0)
        chunks = tl.cdiv(count, chunk)
        begin += tl.sum(count, 0)
        task += tl.sum(tl.where(before < group, tl.maximum(chunks, 1), 0), 0)
        partial += tl.sum(tl.where(chunks > 1, chunks, 0), 0)

    row0 = image.to(tl.int64) * num_regions
    written = write_walk(
        index,
        row0,
        group * GROUP,
        num_regions,
        num_regions,
        topk,
        regions + row0 * topk + begin,
        members + row0 * topk + begin,
        False,
        GROUP,
        BLOCK,
        BLOCK_TOPK,
    )

    chunks = tl.maximum(tl.cdiv(written, chunk), 1)
    tl.store(spans + tl.program_id(0) * 2, partial)
    tl.store(spans + tl.program_id(0) * 2 + 1, tl.where(chunks > 1, chunks, 0))
    of_image = tasks + image.to(tl.int64) * num_tasks * 4
    for i in range(chunks):
        here = of_image + (task + i) * 4
        tl.store(here, begin + i * chunk)
        tl.store(here + 1, begin + tl.minimum((i + 1) * chunk, written))
        tl.store(here + 2, group)
        tl.store(here + 3, tl.where(chunks > 1, partial + i, -1))
    if group == groups - 1:
        for i in range(task + chunks, num_tasks):
            tl.store(of_image + i * 4 + 2, -1)


class Walks(NamedTuple):
    """The walks of all tiles of a kernel."""

    regions: Tensor
    members: Tensor
    counts: Tensor


class Tasks(NamedTuple):
    """The walks of key regions, in chunks."""

    walks: Walks
    tasks: Tensor
    """int32 ``(N, tasks, 4)``"""
    spans: Tensor
    """int32 ``(N, groups, 2)``"""
    partials: int
    """The most partial results that one image may have."""


BLOCK = 64
"""Candidates that are looked at together."""

CHUNK = 4
"""A walk is split into chunks of so many times the average length."""


def from_queries(call: Call, tiles: Tiles) -> Walks:
    """The key regions that each tile of queries walks over."""
    index = call.index
    if tiles.group == 1:
        return Walks(index, index, index)  # a region walks over its routes
    groups = tiles.count(call.queries)
    regions, members = (memory.empty(index, index.shape, torch.int32) for _ in range(2))
    counts = memory.empty(index, (call.images, groups), torch.int32)
    walk_from_queries[(counts.numel(),)](
        index,
        regions,
        members,
        counts,
        call.queries.regions,
        call.keys.regions,
        groups,
        call.topk,
        GROUP=tiles.group,
        BLOCK=BLOCK,
        BLOCK_TOPK=fitting(call.topk, BLOCK),
        num_warps=4,
    )
    return Walks(regions, members, counts)


def from_keys(call: Call, tiles: Tiles) -> Tasks:
    """The query regions that each tile of keys walks over."""
    index = call.index
    groups = -(-call.keys.regions // tiles.group)
    entries = call.queries.regions * call.topk
    average = min(call.queries.regions, -(-entries // groups))
    chunk = tiles.per * -(-CHUNK * average // tiles.per)
    longest = call.queries.regions
    split = chunk < longest
    num_tasks = groups + (entries // chunk if split else 0)
    regions, members = (memory.empty(index, index.shape, torch.int32) for _ in range(2))
    counts = memory.empty(index, (call.images, groups), torch.int32)
    spans = memory.empty(index, (call.images, groups, 2), torch.int32)
    tasks = memory.empty(index, (call.images, num_tasks, 4), torch.int32)
    sizes: dict[str, Any] = {
        "GROUP": tiles.group,
        "BLOCK": BLOCK,
        "BLOCK_TOPK": fitting(call.topk, BLOCK),
        "num_warps": 4,
    }
    grid = (counts.numel(),)
    count_walks[grid](index, counts, call.queries.regions, groups, call.topk, **sizes)
    walk_from_keys[grid](
        index,
        counts,
        regions,
        members,
        tasks,
        spans,
        call.queries.regions,
        groups,
        call.topk,
        chunk,
        num_tasks,
        **sizes,
    )
    return Tasks(
        Walks(regions, members, counts), tasks, spans, 2 * entries // chunk if split else 0
    )
