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

import triton
import triton.language as tl


@triton.jit
def members_of(routes, row0, first, candidate, HOW: tl.constexpr):
    """The members of candidate regions, 0 where none is routed together with one.

    ``row0`` is the row of the index that holds the first query region of the image, ``first`` the
    first region of the group.
    """
    found = tl.zeros_like(candidate)
    for start in range(0, routes.topk, HOW.slots):
        slot = start + tl.arange(0, HOW.slots)
        if HOW.of_queries:
            for g in range(HOW.group):
                held = tl.where(first + g < routes.regions, routes.topk, 0)
                at = (row0 + first + g) * routes.topk + slot
                routed = tl.load(routes.table + at, mask=slot < held, other=-1)
                hit = candidate[:, None] == routed[None, :].to(tl.int32)
                found |= tl.max(hit.to(tl.int32), 1) << g
        else:
            held = (candidate < routes.regions)[:, None] & (slot < routes.topk)[None, :]
            at = (row0 + candidate)[:, None] * routes.topk + slot[None, :]
            routed = tl.load(routes.table + at, mask=held, other=-1).to(tl.int32)
            for g in range(HOW.group):
                found |= tl.max((routed == first + g).to(tl.int32), 1) << g
    return found


@triton.jit
def write_walk(routes, row0, first, candidates, regions, members, HOW: tl.constexpr):
    """Write the walk of one group; return its length."""
    written = 0
    for start in range(0, candidates, HOW.candidates):
        candidate = start + tl.arange(0, HOW.candidates)
        of_candidate = members_of(routes, row0, first, candidate, HOW)
        found = of_candidate != 0
        place = written + tl.cumsum(found.to(tl.int32), 0) - 1
        tl.store(regions + place, candidate, mask=found)
        tl.store(members + place, of_candidate, mask=found)
        written += tl.sum(found.to(tl.int32), 0)
    return written


@triton.jit
def walk_from_queries(routes, walks, groups, key_regions, HOW: tl.constexpr):
    """The key regions that each group of query regions walks over: its list begins where the
    routes of its first region do."""
    image, first = tl.program_id(0) // groups, tl.program_id(0) % groups * HOW.group
    row0 = image.to(tl.int64) * routes.regions
    begin = (row0 + first) * routes.topk
    regions, members = walks.regions + begin, walks.members + begin
    written = write_walk(routes, row0, first, key_regions, regions, members, HOW)
    tl.store(walks.counts + tl.program_id(0), written)


@triton.jit
def count_walks(routes, walks, groups, HOW: tl.constexpr):
    """How many query regions each group of key regions walks over."""
    image, first = tl.program_id(0) // groups, tl.program_id(0) % groups * HOW.group
    row0 = image.to(tl.int64) * routes.regions
    found = tl.full([HOW.candidates], 0, tl.int32)
    for start in range(0, routes.regions, HOW.candidates):
        candidate = start + tl.arange(0, HOW.candidates)
        found += (members_of(routes, row0, first, candidate, HOW) != 0).to(tl.int32)
    tl.store(walks.counts + tl.program_id(0), tl.sum(found, 0))


@triton.jit
def walk_from_keys(routes, walks, groups, chunk, HOW: tl.constexpr):
    """The query regions that each group of key regions walks over, in chunks of at most so many.

    A *task* of an image is one chunk: where it begins, where it ends, the group, and the place of
    its partial result, or -1 where the group has one chunk and needs none. The tasks of all groups
    lie one after the other; what is left has group -1. The *span* of a group is the place of its
    first partial result, and how many there are.
    """
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    begin, task, place = 0, 0, 0
    for start in range(0, group, HOW.candidates):
        before = start + tl.arange(0, HOW.candidates)
        count = tl.load(walks.counts + image * groups + before, mask=before < group, other=0)
        chunks = tl.cdiv(count, chunk)
        begin += tl.sum(count, 0)
        task += tl.sum(tl.where(before < group, tl.maximum(chunks, 1), 0), 0)
        place += tl.sum(tl.where(chunks > 1, chunks, 0), 0)

    row0 = image.to(tl.int64) * routes.regions
    at = row0 * routes.topk + begin
    regions, members = walks.regions + at, walks.members + at
    written = write_walk(routes, row0, group * HOW.group, routes.regions, regions, members, HOW)

    chunks = tl.maximum(tl.cdiv(written, chunk), 1)
    tl.store(walks.spans + tl.program_id(0) * 2, place)
    tl.store(walks.spans + tl.program_id(0) * 2 + 1, tl.where(chunks > 1, chunks, 0))
    tasks = walks.tasks + image.to(tl.int64) * walks.num_tasks * 4
    for i in range(chunks):
        here = tasks + (task + i) * 4
        tl.store(here, begin + i * chunk)
        tl.store(here + 1, begin + tl.minimum((i + 1) * chunk, written))
        tl.store(here + 2, group)
        tl.store(here + 3, tl.where(chunks > 1, place + i, -1))
    if group == groups - 1:
        for i in range(task + chunks, walks.num_tasks):
            tl.store(tasks + i * 4 + 2, -1)
