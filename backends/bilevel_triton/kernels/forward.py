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
    load_pair,
    load_rows,
    num_regions,
    num_steps,
    replace_nonfinite,
    routed_pairs,
    stationary_tile,
    store_rows,
    streamed_tile,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def program_of(num_tiles, heads):
    """The image, the tile and the head of a program: heads next to each other share memory."""
    program = tl.program_id(0)
    return program // heads // num_tiles, program // heads % num_tiles, program % heads


@triton.jit
def lse_offset(image, head, shape):
    """Where one image and head begin in an array ``(N, M, tokens)`` of queries, as ``lse``."""
    tokens = shape.spatial[0][0] * shape.spatial[0][1] * shape.spatial[0][2]
    return (image.to(tl.int64) * shape.heads + head) * tokens


@triton.jit
def kv_block_list(block_lists, image, first_region, tile, num_tiles, topk, META: tl.constexpr):
    """``kv_indices``, ``group_masks`` and ``kv_num_blocks`` of a tile of queries: the routes of a
    region alone, or the list of a group."""
    begin = (image.to(tl.int64) * num_regions(META, QUERIES) + first_region) * topk
    kv_num_blocks = topk
    if META.group_size > 1:
        kv_num_blocks = tl.load(block_lists.kv_num_blocks + image * num_tiles + tile)
    return block_lists.kv_indices + begin, block_lists.group_masks + begin, kv_num_blocks


@triton.jit
def scaled_products(stationary, streamed, shape, META: tl.constexpr):
    """Scaled products of rows, ``(stationary rows, streamed rows)``, as exponents of two."""
    products = tl.dot(stationary, tl.trans(streamed), input_precision=META.precision)
    return products * (shape.scale * LOG2_E)


@triton.jit
def attend(q, k, v, out, lse, block_lists, num_tiles, shape, META: tl.constexpr):
    """``out`` ``(N, *spatial, M, Dv)`` and ``lse`` ``(N, M, tokens)``; each program computes a tile
    of queries and one head."""
    image, tile, head = program_of(num_tiles, shape.heads)
    first_region, group_bit, token, valid = stationary_tile(tile, shape.spatial, META, QUERIES)
    q_tile = load_rows(q, image, head, token, valid, META.head_dim, META.head_dim_rounded)
    kv_indices, group_masks, kv_num_blocks = kv_block_list(
        block_lists, image, first_region, tile, num_tiles, shape.topk, META
    )

    m_i = tl.full([META.stationary_rows], float("-inf"), tl.float32)
    l_i = tl.full([META.stationary_rows], 0.0, tl.float32)
    acc = tl.full([META.stationary_rows, META.value_dim_rounded], 0.0, tl.float32)
    for step in range(num_steps(kv_num_blocks, shape.spatial, META, KEYS)):
        entry, kv_token, kv_valid = streamed_tile(
            step, kv_indices, kv_num_blocks, shape.spatial, META, KEYS
        )
        k_tile, v_tile = load_pair(k, v, image, head, kv_token, kv_valid, META)
        qk = scaled_products(q_tile, k_tile, shape, META)
        if META.group_size > 1:
            v_tile, nan_or_zero = replace_nonfinite(v_tile)
            routed = routed_pairs(group_masks, entry, kv_valid, group_bit)
            qk = tl.where(routed, qk + nan_or_zero[None, :], float("-inf"))
        else:
            qk = tl.where(kv_valid[None, :], qk, float("-inf"))
        m_ij = tl.maximum(m_i, tl.max(qk, 1))
        # A query may have no key in this tile.
        m_ij_masked = tl.where(m_ij == float("-inf"), 0.0, m_ij)
        p = tl.exp2(qk - m_ij_masked[:, None])
        alpha = tl.exp2(m_i - m_ij_masked)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc *= alpha[:, None]
        acc += tl.dot(p.to(v_tile.dtype), v_tile, input_precision=META.precision)
        m_i = m_ij

    l_i = tl.where(valid, l_i, 1.0)
    acc /= l_i[:, None]
    store_rows(out, image, head, token, valid, acc, META.value_dim, META.value_dim_rounded)
    offset = lse_offset(image, head, shape) + token
    tl.store(lse + offset, m_i + tl.log2(l_i), mask=valid)
