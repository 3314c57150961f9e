"""The kernel of the forward pass: routed attention that reads keys and values where they are.

Online softmax in float32, in powers of two: ``scale`` has the factor log2(e). For the backward pass
it keeps, of each query, the logarithm of the softmax's denominator, to base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bilevel_triton import walks
from bilevel_triton.call import LOG2_E, Call, strides
from bilevel_triton.tiles import tiles
from bilevel_triton.tokens import (
    load_rows,
    pairs,
    quarantine,
    resident_tile,
    store_rows,
    walk_steps,
    walked_tile,
)


@triton.jit
def attend(
    q,
    k,
    v,
    out,
    lse,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    q_sizes,
    k_sizes,
    regions,
    members,
    counts,
    topk,
    tiles,
    heads,
    scale,
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
    """``out`` ``(N, *spatial, M, Dv)`` and ``lse`` ``(N, M, tokens)``, a tile of queries and one
    head in each program."""
    head = tl.program_id(0) % heads
    tile = tl.program_id(0) // heads % tiles
    image = tl.program_id(0) // heads // tiles
    first, slot, token, real = resident_tile(tile, q_sizes, Q_SPLIT, RAGGED, GROUP, BLOCK_Q)
    queries = load_rows(q, q_strides, image, head, token, real, HEAD_DIM, BLOCK_D)

    begin = (image.to(tl.int64) * (Q_SPLIT[0] * Q_SPLIT[1] * Q_SPLIT[2]) + first) * topk
    count = topk
    if GROUP > 1:
        count = tl.load(counts + image * tiles + tile)
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32)
    for step in range(0, walk_steps(count, k_sizes, K_SPLIT, PER, BLOCK_K)):
        entry, k_token, k_real = walked_tile(
            step, regions + begin, count, k_sizes, K_SPLIT, RAGGED, PER, WHOLE, BLOCK_K
        )
        keys = load_rows(k, k_strides, image, head, k_token, k_real, HEAD_DIM, BLOCK_D)
        values = load_rows(v, v_strides, image, head, k_token, k_real, VALUE_DIM, BLOCK_V)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        if GROUP > 1:
            values, poison = quarantine(values)
            routed = pairs(members + begin, entry, k_real, slot)
            scores = tl.where(routed, scores + poison[None, :], float("-inf"))
        else:
            scores = tl.where(k_real[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A query may have no key in this tile.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(top - shift)
        total = total * decay + tl.sum(weights, 1)
        acc *= decay[:, None]
        acc += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        top = new_top

    total = tl.where(real, total, 1.0)
    store_rows(
        out, out_strides, image, head, token, real, acc / total[:, None], VALUE_DIM, BLOCK_V
    )
    row = (image.to(tl.int64) * heads + head) * (q_sizes[0] * q_sizes[1] * q_sizes[2])
    tl.store(lse + row + token, top + tl.log2(total), mask=real)


def run(call: Call, out: Tensor, lse: Tensor) -> None:
    """Compute ``out`` and ``lse``."""
    shape = tiles(call.queries, call.keys, call.topk, call.channels, call.q.element_size())
    count = shape.count(call.queries)
    attend[(call.images * count * call.heads,)](
        call.q,
        call.k,
        call.v,
        out,
        lse,
        strides(call.q),
        strides(call.k),
        strides(call.v),
        strides(out),
        call.queries.sizes,
        call.keys.sizes,
        *walks.from_queries(call, shape),
        call.topk,
        count,
        call.heads,
        call.scale * LOG2_E,
        BLOCK_Q=shape.block,
        BLOCK_K=shape.walk_block,
        **call.constants(shape),
    )
