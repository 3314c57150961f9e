"""The backward pass: the softmax's weights are computed again from queries, keys and ``lse``.

The gradient of queries streams the routed key regions, as the forward pass does. Those of keys and
values stream the query regions that a key region was routed to, so that no two programs add to one
number: no atomics, and the same bits each time. Where many query regions are routed to a few key
regions, a long block list is split into chunks, whose partial gradients :func:`add_partials` adds
in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bilevel_triton.kernels.forward import kv_block_list, lse_offset, program_of, scaled_products
from bilevel_triton.kernels.tokens import (
    KEYS,
    QUERIES,
    load_pair,
    load_rows,
    num_regions,
    num_steps,
    region_extent,
    replace_nonfinite,
    routed_pairs,
    stationary_tile,
    store_pair,
    store_rows,
    streamed_tile,
)


@triton.jit
def gradient_of_queries(
    q, k, v, out, d_out, lse, delta, d_q, block_lists, num_tiles, shape, META: tl.constexpr
):
    """``d_q`` like ``q``, and ``delta`` ``(N, M, tokens)``, the sum of ``out * d_out`` over the
    channels, which the other kernel needs; each program computes a tile of queries and one head."""
    image, tile, head = program_of(num_tiles, shape.heads)
    first_region, group_bit, token, valid = stationary_tile(tile, shape.spatial, META, QUERIES)
    q_tile, do_tile = load_pair(q, d_out, image, head, token, valid, META)
    out_tile = load_rows(out, image, head, token, valid, META.value_dim, META.value_dim_rounded)
    offset = lse_offset(image, head, shape) + token
    delta_i = tl.sum(out_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    tl.store(delta + offset, delta_i, mask=valid)
    lse_i = tl.load(lse + offset, mask=valid, other=0.0)
    kv_indices, group_masks, kv_num_blocks = kv_block_list(
        block_lists, image, first_region, tile, num_tiles, shape.topk, META
    )

    dq = tl.full([META.stationary_rows, META.head_dim_rounded], 0.0, tl.float32)
    for step in range(num_steps(kv_num_blocks, shape.spatial, META, KEYS)):
        entry, kv_token, kv_valid = streamed_tile(
            step, kv_indices, kv_num_blocks, shape.spatial, META, KEYS
        )
        k_tile, v_tile = load_pair(k, v, image, head, kv_token, kv_valid, META)
        p = tl.exp2(scaled_products(q_tile, k_tile, shape, META) - lse_i[:, None])
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=META.precision)
        ds = p * (dp - delta_i[:, None])
        if META.group_size > 1:
            k_tile, _nan_or_zero = replace_nonfinite(k_tile)
            routed = routed_pairs(group_masks, entry, kv_valid, group_bit)
            ds = tl.where(routed, ds, 0.0)
        else:
            ds = tl.where(kv_valid[None, :], ds, 0.0)
        dq += tl.dot(ds.to(k_tile.dtype), k_tile, input_precision=META.precision)
    dq *= shape.scale
    store_rows(d_q, image, head, token, valid, dq, META.head_dim, META.head_dim_rounded)


@triton.jit
def gradient_of_keys(
    q, k, v, d_out, lse, delta, d_k, d_v, block_lists, partials, shape, META: tl.constexpr
):
    """``d_k`` like ``k`` and ``d_v`` like ``v``, or ``partials`` where a block list has chunks;
    each program computes a tile of keys, one chunk of its block list and one head. A row of ``p``,
    ``dp`` and ``ds`` is a key here, a column a query."""
    tiles_per_group = num_tiles_per_group(shape.spatial, META)
    number, nth_tile, head = program_of(tiles_per_group, shape.heads)
    image = number // block_lists.num_chunks
    begin, end, group, partial = load_chunk(block_lists.chunks, number)
    if group < 0:
        return
    tile = group * tiles_per_group + nth_tile
    _first_region, group_bit, token, valid = stationary_tile(tile, shape.spatial, META, KEYS)
    k_tile, v_tile = load_pair(k, v, image, head, token, valid, META)
    q_indices, group_masks = q_block_list(block_lists, image, begin, shape.topk, META)
    q_num_blocks = end - begin
    offset = lse_offset(image, head, shape)

    dk = tl.full([META.stationary_rows, META.head_dim_rounded], 0.0, tl.float32)
    dv = tl.full([META.stationary_rows, META.value_dim_rounded], 0.0, tl.float32)
    for step in range(num_steps(q_num_blocks, shape.spatial, META, QUERIES)):
        entry, q_token, q_valid = streamed_tile(
            step, q_indices, q_num_blocks, shape.spatial, META, QUERIES
        )
        q_tile, do_tile = load_pair(q, d_out, image, head, q_token, q_valid, META)
        lse_i = tl.load(lse + offset + q_token, mask=q_valid, other=0.0)
        delta_i = tl.load(delta + offset + q_token, mask=q_valid, other=0.0)
        p = tl.exp2(scaled_products(k_tile, q_tile, shape, META) - lse_i[None, :])
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=META.precision)
        ds = p * (dp - delta_i[None, :])
        if META.group_size > 1:
            q_tile, _nan_or_zero = replace_nonfinite(q_tile)
            do_tile, nan_or_zero = replace_nonfinite(do_tile)
            routed = routed_pairs(group_masks, entry, q_valid, group_bit)
            p = tl.where(routed, p + nan_or_zero[None, :], 0.0)
            ds = tl.where(routed, ds, 0.0)
        else:
            p = tl.where(q_valid[None, :], p, 0.0)
            ds = tl.where(q_valid[None, :], ds, 0.0)
        dv += tl.dot(p.to(do_tile.dtype), do_tile, input_precision=META.precision)
        dk += tl.dot(ds.to(q_tile.dtype), q_tile, input_precision=META.precision)
    dk *= shape.scale
    if partial < 0:
        store_pair(d_k, d_v, image, head, token, valid, dk, dv, META)
    else:
        row = partial_rows(partials, image, partial, nth_tile, head, shape, META)
        tl.store(partial_ptrs(partials.d_k, row, META.head_dim_rounded), dk)
        tl.store(partial_ptrs(partials.d_v, row, META.value_dim_rounded), dv)


@triton.jit
def load_chunk(chunks, number):
    """The four numbers of a chunk, as ``list_q_blocks`` of :mod:`.block_lists` writes them."""
    chunk = chunks + number.to(tl.int64) * 4
    return tl.load(chunk), tl.load(chunk + 1), tl.load(chunk + 2), tl.load(chunk + 3)


@triton.jit
def q_block_list(block_lists, image, begin, topk, META: tl.constexpr):
    """``q_indices`` and ``group_masks`` of a chunk, from its first entry on."""
    image_begin = image.to(tl.int64) * num_regions(META, QUERIES) * topk
    q_indices = block_lists.q_indices + image_begin + begin
    return q_indices, block_lists.group_masks + image_begin + begin


@triton.jit
def num_tiles_per_group(spatial, META: tl.constexpr):
    """The number of stationary tiles of a group of key regions."""
    _t0, _t1, _t2, size = region_extent(spatial, META, KEYS)
    return tl.cdiv(size, META.stationary_rows) if META.group_size == 1 else 1


@triton.jit
def partial_rows(partials, image, partial, nth_tile, head, shape, META: tl.constexpr):
    """The rows of a tile of a partial gradient, ``(rows, 1)``, counted over all tiles, heads and
    images."""
    number = (image * partials.per_image + partial).to(tl.int64)
    number = (number * num_tiles_per_group(shape.spatial, META) + nth_tile) * shape.heads + head
    return number * META.stationary_rows + tl.arange(0, META.stationary_rows)[:, None]


@triton.jit
def partial_ptrs(x, row, CHANNELS: tl.constexpr):
    """Pointers to rows of partial gradients, ``(rows, CHANNELS)``."""
    return x + (row * CHANNELS + tl.arange(0, CHANNELS)[None, :])


@triton.jit
def add_partials(d_k, d_v, block_lists, partials, num_tiles, shape, META: tl.constexpr):
    """``d_k`` and ``d_v`` where a block list has chunks; each program computes a tile of keys."""
    tiles_per_group = num_tiles_per_group(shape.spatial, META)
    image, tile = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles
    group = tl.program_id(0) // tiles_per_group
    group_partials = block_lists.group_partials + group.to(tl.int64) * 2
    first, count = tl.load(group_partials), tl.load(group_partials + 1)
    if count == 0:
        return
    _first_region, _group_bit, token, valid = stationary_tile(tile, shape.spatial, META, KEYS)
    nth_tile = tile % tiles_per_group
    for head in range(shape.heads):
        dk = tl.full([META.stationary_rows, META.head_dim_rounded], 0.0, tl.float32)
        dv = tl.full([META.stationary_rows, META.value_dim_rounded], 0.0, tl.float32)
        for i in range(count):
            row = partial_rows(partials, image, first + i, nth_tile, head, shape, META)
            dk += tl.load(partial_ptrs(partials.d_k, row, META.head_dim_rounded))
            dv += tl.load(partial_ptrs(partials.d_v, row, META.value_dim_rounded))
        store_pair(d_k, d_v, image, head, token, valid, dk, dv, META)
