"""The backward pass: weights are computed again from queries, keys and ``lse``.

The gradient of queries walks over the routed key regions, as the forward pass does. Those of keys
and values walk over the query regions that a key region was routed to, so that no two programs add
to one number: no atomics, and the same bits each time. Where many query regions are routed to a
few, a long walk is split into chunks, whose partial results :func:`add_partials` adds in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bilevel_triton.kernels.attend import LOG2_E, program_of, rows_of, walk_of
from bilevel_triton.kernels.tokens import (
    KEYS,
    QUERIES,
    count_regions,
    kept_tile,
    load_rows,
    pairs,
    quarantine,
    region_shape,
    store_rows,
    walk_steps,
    walked_tile,
)


@triton.jit
def gradient_of_queries(
    q, k, v, out, d_out, lse, delta, d_q, walks, tiles, shape, HOW: tl.constexpr
):
    """``d_q`` like ``q``, and ``delta`` ``(N, M, tokens)``, the sum of ``out * d_out`` over the
    channels, which the other kernel needs; each program computes a tile of queries and one head."""
    image, tile, head = program_of(tiles, shape.heads)
    first, slot, token, real = kept_tile(tile, shape, HOW, QUERIES)
    queries = load_rows(q, image, head, token, real, HOW.head_dim, HOW.block_d)
    d_rows = load_rows(d_out, image, head, token, real, HOW.value_dim, HOW.block_v)
    out_rows = load_rows(out, image, head, token, real, HOW.value_dim, HOW.block_v)
    row = rows_of(image, head, shape) + token
    of_row = tl.sum(out_rows.to(tl.float32) * d_rows.to(tl.float32), 1)
    tl.store(delta + row, of_row, mask=real)
    logsum = tl.load(lse + row, mask=real, other=0.0)
    regions, members, count = walk_of(walks, image, first, tile, tiles, shape.topk, HOW)

    acc = tl.full([HOW.kept_lanes, HOW.block_d], 0.0, tl.float32)
    for step in range(walk_steps(count, shape, HOW, KEYS)):
        entry, k_token, k_real = walked_tile(step, regions, count, shape, HOW, KEYS)
        keys = load_rows(k, image, head, k_token, k_real, HOW.head_dim, HOW.block_d)
        values = load_rows(v, image, head, k_token, k_real, HOW.value_dim, HOW.block_v)
        scores = tl.dot(queries, tl.trans(keys), input_precision=HOW.precision) * (
            shape.scale * LOG2_E
        )
        weights = tl.exp2(scores - logsum[:, None])
        d_weights = tl.dot(d_rows, tl.trans(values), input_precision=HOW.precision)
        d_scores = weights * (d_weights - of_row[:, None])
        if HOW.group > 1:
            keys, _poison = quarantine(keys)
            routed = pairs(members, entry, k_real, slot)
            d_scores = tl.where(routed, d_scores, 0.0)
        else:
            d_scores = tl.where(k_real[None, :], d_scores, 0.0)
        acc += tl.dot(d_scores.to(keys.dtype), keys, input_precision=HOW.precision)
    acc *= shape.scale
    store_rows(d_q, image, head, token, real, acc, HOW.head_dim, HOW.block_d)


@triton.jit
def gradient_of_keys(
    q, k, v, d_out, lse, delta, d_k, d_v, walks, partials, shape, HOW: tl.constexpr
):
    """``d_k`` like ``k`` and ``d_v`` like ``v``, or partial results where a walk has chunks; each
    program computes a tile of keys, one chunk of its walk and one head."""
    parts = parts_of(shape, HOW)
    number, part, head = program_of(parts, shape.heads)
    image = number // walks.num_tasks
    task = walks.tasks + number.to(tl.int64) * 4
    begin, end, group, place = (
        tl.load(task),
        tl.load(task + 1),
        tl.load(task + 2),
        tl.load(task + 3),
    )
    if group < 0:
        return
    _first, slot, token, real = kept_tile(group * parts + part, shape, HOW, KEYS)
    keys = load_rows(k, image, head, token, real, HOW.head_dim, HOW.block_d)
    values = load_rows(v, image, head, token, real, HOW.value_dim, HOW.block_v)
    begin_of_image = image.to(tl.int64) * count_regions(HOW, QUERIES) * shape.topk
    regions = walks.regions + begin_of_image + begin
    members = walks.members + begin_of_image + begin
    count = end - begin
    row = rows_of(image, head, shape)

    acc_k = tl.full([HOW.kept_lanes, HOW.block_d], 0.0, tl.float32)
    acc_v = tl.full([HOW.kept_lanes, HOW.block_v], 0.0, tl.float32)
    for step in range(walk_steps(count, shape, HOW, QUERIES)):
        entry, q_token, q_real = walked_tile(step, regions, count, shape, HOW, QUERIES)
        queries = load_rows(q, image, head, q_token, q_real, HOW.head_dim, HOW.block_d)
        d_rows = load_rows(d_out, image, head, q_token, q_real, HOW.value_dim, HOW.block_v)
        logsum = tl.load(lse + row + q_token, mask=q_real, other=0.0)
        of_row = tl.load(delta + row + q_token, mask=q_real, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision=HOW.precision) * (
            shape.scale * LOG2_E
        )
        weights = tl.exp2(scores - logsum[None, :])
        d_weights = tl.dot(values, tl.trans(d_rows), input_precision=HOW.precision)
        d_scores = weights * (d_weights - of_row[None, :])
        if HOW.group > 1:
            queries, _poison = quarantine(queries)
            d_rows, poison = quarantine(d_rows)
            routed = pairs(members, entry, q_real, slot)
            weights = tl.where(routed, weights + poison[None, :], 0.0)
            d_scores = tl.where(routed, d_scores, 0.0)
        else:
            weights = tl.where(q_real[None, :], weights, 0.0)
            d_scores = tl.where(q_real[None, :], d_scores, 0.0)
        acc_v += tl.dot(weights.to(d_rows.dtype), d_rows, input_precision=HOW.precision)
        acc_k += tl.dot(d_scores.to(queries.dtype), queries, input_precision=HOW.precision)
    acc_k *= shape.scale
    if place < 0:
        store_rows(d_k, image, head, token, real, acc_k, HOW.head_dim, HOW.block_d)
        store_rows(d_v, image, head, token, real, acc_v, HOW.value_dim, HOW.block_v)
    else:
        at = partial_tile(partials, image, place, part, parts, head, shape.heads)
        tl.store(partials.k + partial_places(at, HOW.kept_lanes, HOW.block_d), acc_k)
        tl.store(partials.v + partial_places(at, HOW.kept_lanes, HOW.block_v), acc_v)


@triton.jit
def parts_of(shape, HOW: tl.constexpr):
    """How many tiles a group of key regions has."""
    _t0, _t1, _t2, size = region_shape(shape, HOW, KEYS)
    return tl.cdiv(size, HOW.kept_lanes) if HOW.group == 1 else 1


@triton.jit
def partial_tile(partials, image, place, part, parts, head, heads):
    """The number of a partial result."""
    return ((image * partials.most + place).to(tl.int64) * parts + part) * heads + head


@triton.jit
def partial_places(tile, LANES: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the numbers of a partial result are."""
    row = tile * LANES + tl.arange(0, LANES)[:, None]
    return row * CHANNELS + tl.arange(0, CHANNELS)[None, :]


@triton.jit
def add_partials(d_k, d_v, walks, partials, tiles, shape, HOW: tl.constexpr):
    """``d_k`` and ``d_v`` where a walk was split; each program computes a tile of keys."""
    parts = parts_of(shape, HOW)
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    span = walks.spans + (tl.program_id(0) // parts).to(tl.int64) * 2
    place, chunks = tl.load(span), tl.load(span + 1)
    if chunks == 0:
        return
    _first, _slot, token, real = kept_tile(tile, shape, HOW, KEYS)
    for head in range(shape.heads):
        acc_k = tl.full([HOW.kept_lanes, HOW.block_d], 0.0, tl.float32)
        acc_v = tl.full([HOW.kept_lanes, HOW.block_v], 0.0, tl.float32)
        for chunk in range(chunks):
            at = partial_tile(
                partials, image, place + chunk, tile % parts, parts, head, shape.heads
            )
            acc_k += tl.load(partials.k + partial_places(at, HOW.kept_lanes, HOW.block_d))
            acc_v += tl.load(partials.v + partial_places(at, HOW.kept_lanes, HOW.block_v))
        store_rows(d_k, image, head, token, real, acc_k, HOW.head_dim, HOW.block_d)
        store_rows(d_v, image, head, token, real, acc_v, HOW.value_dim, HOW.block_v)
