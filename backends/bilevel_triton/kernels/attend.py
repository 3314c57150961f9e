"""The forward pass: routed attention that reads keys and values where they are.

Online softmax in float32, in powers of two. For the backward pass it keeps, of each query, the
logarithm of the softmax's denominator, to base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bilevel_triton.kernels.tokens import (
    KEYS,
    QUERIES,
    count_regions,
    kept_tile,
    load_rows,
    pairs,
    quarantine,
    store_rows,
    walk_steps,
    walked_tile,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def program_of(tiles, heads):
    """The image, the tile and the head of a program: heads next to each other share memory."""
    program = tl.program_id(0)
    return program // heads // tiles, program // heads % tiles, program % heads


@triton.jit
def rows_of(image, head, shape):
    """Where the numbers of an image's and a head's queries begin, ``(N, M, tokens)``."""
    tokens = shape.sizes[0][0] * shape.sizes[0][1] * shape.sizes[0][2]
    return (image.to(tl.int64) * shape.heads + head) * tokens


@triton.jit
def walk_of(walks, image, first, tile, tiles, topk, HOW: tl.constexpr):
    """Where the walk of a tile of queries is, and its length: a region alone walks over its routes,
    a group over a list."""
    begin = (image.to(tl.int64) * count_regions(HOW, QUERIES) + first) * topk
    count = topk
    if HOW.group > 1:
        count = tl.load(walks.counts + image * tiles + tile)
    return walks.regions + begin, walks.members + begin, count


@triton.jit
def attend(q, k, v, out, lse, walks, tiles, shape, HOW: tl.constexpr):
    """``out`` ``(N, *spatial, M, Dv)`` and ``lse`` ``(N, M, tokens)``; each program computes a tile
    of queries and one head."""
    image, tile, head = program_of(tiles, shape.heads)
    first, slot, token, real = kept_tile(tile, shape, HOW, QUERIES)
    queries = load_rows(q, image, head, token, real, HOW.head_dim, HOW.block_d)
    regions, members, count = walk_of(walks, image, first, tile, tiles, shape.topk, HOW)

    top = tl.full([HOW.kept_lanes], float("-inf"), tl.float32)
    total = tl.full([HOW.kept_lanes], 0.0, tl.float32)
    acc = tl.full([HOW.kept_lanes, HOW.block_v], 0.0, tl.float32)
    for step in range(walk_steps(count, shape, HOW, KEYS)):
        entry, k_token, k_real = walked_tile(step, regions, count, shape, HOW, KEYS)
        keys = load_rows(k, image, head, k_token, k_real, HOW.head_dim, HOW.block_d)
        values = load_rows(v, image, head, k_token, k_real, HOW.value_dim, HOW.block_v)
        scores = tl.dot(queries, tl.trans(keys), input_precision=HOW.precision) * (
            shape.scale * LOG2_E
        )
        if HOW.group > 1:
            values, poison = quarantine(values)
            routed = pairs(members, entry, k_real, slot)
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
        acc += tl.dot(weights.to(values.dtype), values, input_precision=HOW.precision)
        top = new_top

    total = tl.where(real, total, 1.0)
    acc /= total[:, None]
    store_rows(out, image, head, token, real, acc, HOW.value_dim, HOW.block_v)
    row = rows_of(image, head, shape) + token
    tl.store(lse + row, top + tl.log2(total), mask=real)
