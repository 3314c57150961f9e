"""Which regions the program of a tile streams: block lists, made on the device.

A *group* is some neighbouring regions of one side, queries or keys, that share a tile (or one
region alone). Its block list holds the regions of the other side that are routed together with any
of them, in ascending order, each with its *group mask*: bit g is set if it is routed together with
region g of the group. The lists of an image lie one after the other, in as much memory as the
routes take, for each pair of a query region and a routed key region is in one list.

Nothing is sorted, and no program waits for another or adds to what another wrote: the same routes
give the same lists.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def group_masks_of(routes, image_region, first_region, candidate, META: tl.constexpr):
    """The group masks of candidate regions: 0 for those that are not in the group's list.

    ``image_region`` counts the query regions of the images before, ``first_region`` is the first
    region of the group.
    """
    masks = tl.zeros_like(candidate)
    for start in range(0, routes.topk, META.routes_per_step):
        nth = start + tl.arange(0, META.routes_per_step)
        if META.of_queries:
            for g in range(META.group_size):
                end = tl.where(first_region + g < routes.num_regions, routes.topk, 0)
                offset = (image_region + first_region + g) * routes.topk + nth
                routed = tl.load(routes.table + offset, mask=nth < end, other=-1)
                hit = candidate[:, None] == routed[None, :].to(tl.int32)
                masks |= tl.max(hit.to(tl.int32), 1) << g
        else:
            exists = (candidate < routes.num_regions)[:, None] & (nth < routes.topk)[None, :]
            offset = (image_region + candidate)[:, None] * routes.topk + nth[None, :]
            routed = tl.load(routes.table + offset, mask=exists, other=-1).to(tl.int32)
            for g in range(META.group_size):
                masks |= tl.max((routed == first_region + g).to(tl.int32), 1) << g
    return masks


@triton.jit
def write_block_list(
    routes, image_region, first_region, num_candidates, indices, group_masks, META: tl.constexpr
):
    """Write the block list of one group; return its length."""
    written = 0
    for start in range(0, num_candidates, META.candidates_per_step):
        candidate = start + tl.arange(0, META.candidates_per_step)
        masks = group_masks_of(routes, image_region, first_region, candidate, META)
        listed = masks != 0
        entry = written + tl.cumsum(listed.to(tl.int32), 0) - 1
        tl.store(indices + entry, candidate, mask=listed)
        tl.store(group_masks + entry, masks, mask=listed)
        written += tl.sum(listed.to(tl.int32), 0)
    return written


@triton.jit
def list_kv_blocks(routes, block_lists, num_groups, num_kv_regions, META: tl.constexpr):
    """``kv_indices``, ``group_masks`` and ``kv_num_blocks`` of each group of query regions: its
    list begins where the routes of its first region do."""
    image = tl.program_id(0) // num_groups
    first_region = tl.program_id(0) % num_groups * META.group_size
    image_region = image.to(tl.int64) * routes.num_regions
    begin = (image_region + first_region) * routes.topk
    indices, group_masks = block_lists.kv_indices + begin, block_lists.group_masks + begin
    written = write_block_list(
        routes, image_region, first_region, num_kv_regions, indices, group_masks, META
    )
    tl.store(block_lists.kv_num_blocks + tl.program_id(0), written)


@triton.jit
def count_q_blocks(routes, block_lists, num_groups, META: tl.constexpr):
    """``q_num_blocks``, the length of the block list of each group of key regions."""
    image = tl.program_id(0) // num_groups
    first_region = tl.program_id(0) % num_groups * META.group_size
    image_region = image.to(tl.int64) * routes.num_regions
    count = tl.full([META.candidates_per_step], 0, tl.int32)
    for start in range(0, routes.num_regions, META.candidates_per_step):
        candidate = start + tl.arange(0, META.candidates_per_step)
        masks = group_masks_of(routes, image_region, first_region, candidate, META)
        count += (masks != 0).to(tl.int32)
    tl.store(block_lists.q_num_blocks + tl.program_id(0), tl.sum(count, 0))


@triton.jit
def list_q_blocks(routes, block_lists, num_groups, chunk_size, META: tl.constexpr):
    """``q_indices`` and ``group_masks`` of each group of key regions, in chunks of ``chunk_size``
    entries; the last of a group may be shorter.

    A *chunk* is four numbers: its first entry, the entry behind its last, its group, and the number
    of the partial gradient it writes, or -1 if it is its group's only chunk and writes none. The
    chunks of all groups of an image lie one after the other; those that are not needed have
    group -1. ``group_partials`` holds the first partial gradient of each group and their number.
    """
    image, group = tl.program_id(0) // num_groups, tl.program_id(0) % num_groups
    begin, chunk, partial = count_before(block_lists, image, group, num_groups, chunk_size, META)

    image_region = image.to(tl.int64) * routes.num_regions
    offset = image_region * routes.topk + begin
    indices, group_masks = block_lists.q_indices + offset, block_lists.group_masks + offset
    first_region = group * META.group_size
    written = write_block_list(
        routes, image_region, first_region, routes.num_regions, indices, group_masks, META
    )

    count = tl.maximum(tl.cdiv(written, chunk_size), 1)
    group_partials = block_lists.group_partials + tl.program_id(0) * 2
    tl.store(group_partials, partial)
    tl.store(group_partials + 1, tl.where(count > 1, count, 0))
    chunks = block_lists.chunks + image.to(tl.int64) * block_lists.num_chunks * 4
    for i in range(count):
        ptr = chunks + (chunk + i) * 4
        tl.store(ptr, begin + i * chunk_size)
        tl.store(ptr + 1, begin + tl.minimum((i + 1) * chunk_size, written))
        tl.store(ptr + 2, group)
        tl.store(ptr + 3, tl.where(count > 1, partial + i, -1))
    if group == num_groups - 1:
        for i in range(chunk + count, block_lists.num_chunks):
            tl.store(chunks + i * 4 + 2, -1)


@triton.jit
def count_before(block_lists, image, group, num_groups, chunk_size, META: tl.constexpr):
    """The entries, the chunks and the partial gradients of the groups before one in its image."""
    entries, chunks, partials = 0, 0, 0
    for start in range(0, group, META.candidates_per_step):
        before = start + tl.arange(0, META.candidates_per_step)
        length = tl.load(
            block_lists.q_num_blocks + image * num_groups + before, mask=before < group, other=0
        )
        needed = tl.cdiv(length, chunk_size)
        entries += tl.sum(length, 0)
        chunks += tl.sum(tl.where(before < group, tl.maximum(needed, 1), 0), 0)
        partials += tl.sum(tl.where(needed > 1, needed, 0), 0)
    return entries, chunks, partials
