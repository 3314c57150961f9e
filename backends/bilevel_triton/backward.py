"""The kernels of the backward pass: weights are computed again from queries, keys and ``lse``.

The gradient of queries walks over the routed key regions, as the forward pass does. The gradients
of keys and values walk over the query regions that a key region was routed to, so that no two
programs add to one number: no atomics, and the same bits each time. Where hardly any query region
is routed to most, and many to a few, a long walk is split in chunks, whose partial results
:func:`add_partials` adds in their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bilevel_triton import memory, walks
from bilevel_triton.call import LOG2_E, Call, block_of, strides
from bilevel_triton.tiles import tiles
from bilevel_triton.tokens import (
    load_rows,
    pairs,
    quarantine,
    region_shape,
    resident_tile,
    store_rows,
    walk_steps,
    walked_tile,
)


@triton.jit
def gradient_of_queries(
    q,
    k,
    v,
    out,
    d_out,
    lse,
    delta,
    d_q,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    d_out_strides,
    d_q_strides,
    q_sizes,
    k_sizes,
    regions,
    members,
    counts,
    topk,
    tiles,
    heads,
    scale,
    scale_log2,
    Q_SPLIT: tl.constexpr,
    K_SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    PER: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``d_q`` like ``q``, and ``delta`` ``(N, M, tokens)``, the sum of ``out * d_out`` over the
    channels, which the other kernel needs."""
    head = tl.program_id(0) % heads
    tile = tl.program_id(0) // heads % tiles
    image = tl.program_id(0) // heads // tiles
    first, slot, token, real = resident_tile(tile, q_sizes, Q_SPLIT, RAGGED, GROUP, BLOCK_Q)
    queries = load_rows(q, q_strides, image, head, token, real, HEAD_DIM, BLOCK_D)
    d_rows = load_rows(d_out, d_out_strides, image, head, token, real, VALUE_DIM, BLOCK_V)
    out_rows = load_rows(out, out_strides, image, head, token, real, VALUE_DIM, BLOCK_V)
    row = (image.to(tl.int64) * heads + head) * (q_sizes[0] * q_sizes[1] * q_sizes[2])
    row += token
    of_row = tl.sum(out_rows.to(tl.float32) * d_rows.to(tl.float32), 1)
    tl.store(delta + row, of_row, mask=real)
    logsum = tl.load(lse + row, mask=real, other=0.0)

    begin = (image.to(tl.int64) * (Q_SPLIT[0] * Q_SPLIT[1] * Q_SPLIT[2]) + first) * topk
    count = topk
    if GROUP > 1:
        count = tl.load(counts + image * tiles + tile)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for step in range(0, walk_steps(count, k_sizes, K_SPLIT, PER, BLOCK_K)):
        entry, k_token, k_real = walked_tile(
            step, regions + begin, count, k_sizes, K_SPLIT, RAGGED, PER, WHOLE, BLOCK_K
        )
        keys = load_rows(k, k_strides, image, head, k_token, k_real, HEAD_DIM, BLOCK_D)
        values = load_rows(v, v_strides, image, head, k_token, k_real, VALUE_DIM, BLOCK_V)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale_log2
        weights = tl.exp2(scores - logsum[:, None])
        d_weights = tl.dot(d_rows, tl.trans(values), input_precision=PRECISION)
        d_scores = weights * (d_weights - of_row[:, None])
        if GROUP > 1:
            keys, poison = quarantine(keys)
            routed = pairs(members + begin, entry, k_real, slot)
            d_scores = tl.where(routed, d_scores, 0.0)
        else:
            d_scores = tl.where(k_real[None, :], d_scores, 0.0)
        acc += tl.dot(d_scores.to(keys.dtype), keys, input_precision=PRECISION)
    store_rows(d_q, d_q_strides, image, head, token, real, acc * scale, HEAD_DIM, BLOCK_D)


@triton.jit
def gradient_of_keys(
    q,
    k,
    v,
    d_out,
    lse,
    delta,
    d_k,
    d_v,
    partial_k,
    partial_v,
    q_strides,
    k_strides,
    v_strides,
    d_out_strides,
    d_k_strides,
    d_v_strides,
    q_sizes,
    k_sizes,
    regions,
    members,
    tasks,
    num_tasks,
    num_partials,
    topk,
    heads,
    scale,
    scale_log2,
    Q_SPLIT: tl.constexpr,
    K_SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PER: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``d_k`` like ``k`` and ``d_v`` like ``v``, a tile of keys, one chunk of its walk and one head
    in each program; of a group with several chunks, partial results."""
    shape = region_shape(k_sizes, K_SPLIT)
    parts = 1
    if GROUP == 1:
        parts = tl.cdiv(shape[0] * shape[1] * shape[2], BLOCK_K)
    head = tl.program_id(0) % heads
    part = tl.program_id(0) // heads % parts
    task = tl.program_id(0) // heads // parts  # of all images
    image = task // num_tasks
    task = tasks + task.to(tl.int64) * 4
    group = tl.load(task + 2)
    if group < 0:
        return
    place = tl.load(task + 3)
    begin, end = tl.load(task), tl.load(task + 1)
    first, slot, token, real = resident_tile(
        group * parts + part, k_sizes, K_SPLIT, RAGGED, GROUP, BLOCK_K
    )
    keys = load_rows(k, k_strides, image, head, token, real, HEAD_DIM, BLOCK_D)
    values = load_rows(v, v_strides, image, head, token, real, VALUE_DIM, BLOCK_V)
    listed = image.to(tl.int64) * (Q_SPLIT[0] * Q_SPLIT[1] * Q_SPLIT[2]) * topk + begin
    row0 = (image.to(tl.int64) * heads + head) * (q_sizes[0] * q_sizes[1] * q_sizes[2])
    acc_k = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    acc_v = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for step in range(0, walk_steps(end - begin, q_sizes, Q_SPLIT, PER, BLOCK_Q)):
        entry, q_token, q_real = walked_tile(
            step, regions + listed, end - begin, q_sizes, Q_SPLIT, RAGGED, PER, WHOLE, BLOCK_Q
        )
        queries = load_rows(q, q_strides, image, head, q_token, q_real, HEAD_DIM, BLOCK_D)
        d_rows = load_rows(d_out, d_out_strides, image, head, q_token, q_real, VALUE_DIM, BLOCK_V)
        row = row0 + q_token
        logsum = tl.load(lse + row, mask=q_real, other=0.0)
        of_row = tl.load(delta + row, mask=q_real, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale_log2
        weights = tl.exp2(scores - logsum[None, :])
        d_weights = tl.dot(values, tl.trans(d_rows), input_precision=PRECISION)
        d_scores = weights * (d_weights - of_row[None, :])
        if GROUP > 1:
            queries, poison = quarantine(queries)
            d_rows, poison = quarantine(d_rows)
            routed = pairs(members + listed, entry, q_real, slot)
            weights = tl.where(routed, weights + poison[None, :], 0.0)
            d_scores = tl.where(routed, d_scores, 0.0)
        # Else a lane without a query has zeros for its query and its gradient: it adds nothing.
        acc_v += tl.dot(weights.to(d_rows.dtype), d_rows, input_precision=PRECISION)
        acc_k += tl.dot(d_scores.to(queries.dtype), queries, input_precision=PRECISION)
    acc_k *= scale
    if place < 0:
        store_rows(d_k, d_k_strides, image, head, token, real, acc_k, HEAD_DIM, BLOCK_D)
        store_rows(d_v, d_v_strides, image, head, token, real, acc_v, VALUE_DIM, BLOCK_V)
    else:
        tile = ((image * num_partials + place).to(tl.int64) * parts + part) * heads + head
        tl.store(partial_k + partial_places(tile, BLOCK_K, BLOCK_D), acc_k)
        tl.store(partial_v + partial_places(tile, BLOCK_K, BLOCK_V), acc_v)


@triton.jit
def partial_places(tile, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the partial results of a tile are in the workspace."""
    place = tile * BLOCK + tl.arange(0, BLOCK)[:, None]
    return place * CHANNELS + tl.arange(0, CHANNELS)[None, :]


@triton.jit
def add_partials(
    partial_k,
    partial_v,
    d_k,
    d_v,
    d_k_strides,
    d_v_strides,
    k_sizes,
    spans,
    tiles,
    num_partials,
    heads,
    K_SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """``d_k`` and ``d_v`` where a walk was split, a tile of keys and all heads in each program."""
    shape = region_shape(k_sizes, K_SPLIT)
    parts = 1
    if GROUP == 1:
        parts = tl.cdiv(shape[0] * shape[1] * shape[2], BLOCK_K)
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    span = spans + (tl.program_id(0) // parts).to(tl.int64) * 2
    place, chunks = tl.load(span), tl.load(span + 1)
    if chunks == 0:
        return
    first, slot, token, real = resident_tile(tile, k_sizes, K_SPLIT, RAGGED, GROUP, BLOCK_K)
    for head in range(heads):
        acc_k = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        acc_v = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
        for chunk in range(chunks):
            at = (image * num_partials + place + chunk).to(tl.int64) * parts + tile % parts
            at = at * heads + head
            acc_k += tl.load(partial_k + partial_places(at, BLOCK_K, BLOCK_D))
            acc_v += tl.load(partial_v + partial_places(at, BLOCK_K, BLOCK_V))
        store_rows(d_k, d_k_strides, image, head, token, real, acc_k, HEAD_DIM, BLOCK_D)
        store_rows(d_v, d_v_strides, image, head, token, real, acc_v, VALUE_DIM, BLOCK_V)


def run(
    call: Call, d_out: Tensor, out: Tensor, lse: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    """Compute ``d_q``, ``d_k`` and ``d_v``."""
    delta = memory.empty(lse, lse.shape, torch.float32)
    _run_queries(call, d_out, out, lse, delta, d_q)
    _run_keys(call, d_out, lse, delta, d_k, d_v)


def _run_queries(
    call: Call, d_out: Tensor, out: Tensor, lse: Tensor, delta: Tensor, d_q: Tensor
) -> None:
    shape = tiles(call.queries, call.keys, call.topk, call.channels, call.q.element_size())
    count = shape.count(call.queries)
    gradient_of_queries[(call.images * count * call.heads,)](
        call.q,
        call.k,
        call.v,
        out,
        d_out,
        lse,
        delta,
        d_q,
        strides(call.q),
        strides(call.k),
        strides(call.v),
        strides(out),
        strides(d_out),
        strides(d_q),
        call.queries.sizes,
        call.keys.sizes,
        *walks.from_queries(call, shape),
        call.topk,
        count,
        call.heads,
        call.scale,
        call.scale * LOG2_E,
        BLOCK_Q=shape.block,
        BLOCK_K=shape.walk_block,
        **call.constants(shape),
    )


def _run_keys(
    call: Call, d_out: Tensor, lse: Tensor, delta: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    routes = call.queries.regions * call.topk / call.keys.regions
    shape = tiles(call.keys, call.queries, routes, call.channels, call.q.element_size(), results=2)
    (regions, members, _), tasks, spans, partials = walks.from_keys(call, shape)
    count, num_tasks = shape.count(call.keys), tasks.shape[1]
    parts = 1 if shape.group > 1 else count // call.keys.regions
    work = (call.images, partials, parts, call.heads, shape.block)
    partial_k, partial_v = (
        memory.empty(lse, (*work, block_of(x.shape[-1])), torch.float32) for x in (call.k, call.v)
    )
    constants = call.constants(shape)
    gradient_of_keys[(call.images * num_tasks * parts * call.heads,)](
        call.q,
        call.k,
        call.v,
        d_out,
        lse,
        delta,
        d_k,
        d_v,
        partial_k,
        partial_v,
        strides(call.q),
        strides(call.k),
        strides(call.v),
        strides(d_out),
        strides(d_k),
        strides(d_v),
        call.queries.sizes,
        call.keys.sizes,
        regions,
        members,
        tasks,
        num_tasks,
        partials,
        call.topk,
        call.heads,
        call.scale,
        call.scale * LOG2_E,
        BLOCK_K=shape.block,
        BLOCK_Q=shape.walk_block,
        **constants,
    )
    if partials:
        for unused in ("Q_SPLIT", "PER", "WHOLE", "PRECISION"):
            del constants[unused]
        add_partials[(call.images * count,)](
            partial_k,
            partial_v,
            d_k,
            d_v,
            strides(d_k),
            strides(d_v),
            call.keys.sizes,
            spans,
            count,
            partials,
            call.heads,
            BLOCK_K=shape.block,
            **constants,
        )
