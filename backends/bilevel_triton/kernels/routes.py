"""Where query regions are routed to: the means of regions, their products, the best of those.

No program adds to what another wrote: the same tokens give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bilevel_triton.kernels.tokens import KEYS, QUERIES, count_regions, region_shape, tokens_of

LOWEST = tl.constexpr(-(2**63))
"""Of 64 bits: the rank of what is no region, or was chosen before."""

NO_SIGN = tl.constexpr(2**31 - 1)
"""All bits of 32 but the first."""


@triton.jit
def average_regions(q, k, q_mean, k_mean, shape, HOW: tl.constexpr):
    """``q_mean`` and ``k_mean``, float32 ``(N, R, row)``, with zeros behind the ``M * D`` means.

    Each program computes a block of channels for a group of regions: of an image's queries first,
    then of its keys.
    """
    blocks = tl.cdiv(HOW.row, HOW.block)
    of_queries = tl.cdiv(count_regions(HOW, QUERIES), HOW.group)
    groups = of_queries + tl.cdiv(count_regions(HOW, KEYS), HOW.group)
    block, number = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    image, group = number // groups, number % groups
    if group < of_queries:
        average_group(q, q_mean, image, group, block, shape, HOW, QUERIES)
    else:
        average_group(k, k_mean, image, group - of_queries, block, shape, HOW, KEYS)


@triton.jit
def average_group(x, mean, image, group, block, shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """Each region has lanes, which read different tokens and are added when all have been read."""
    _t0, _t1, _t2, size = region_shape(shape, HOW, SIDE)
    lane = tl.arange(0, HOW.group * HOW.lanes)
    region = group * HOW.group + lane // HOW.lanes
    channel = block * HOW.block + tl.arange(0, HOW.block)
    image = image.to(tl.int64)
    total = tl.full([HOW.group * HOW.lanes, HOW.block], 0.0, tl.float32)
    count = tl.full([HOW.group * HOW.lanes], 0, tl.int32)
    for start in range(0, size, HOW.lanes):
        token, real = tokens_of(region, start + lane % HOW.lanes, shape, HOW, SIDE)
        real = real & (region < count_regions(HOW, SIDE))
        at, held = all_channels_of(x, image, token, real, channel, HOW)
        total += tl.load(at, mask=held, other=0.0).to(tl.float32)
        count += real.to(tl.int32)
    of_region = tl.sum(tl.reshape(total, [HOW.group, HOW.lanes, HOW.block]), 1)
    tokens = tl.sum(tl.reshape(count, [HOW.group, HOW.lanes]), 1)
    average = tl.div_rn(of_region, tl.maximum(tokens, 1).to(tl.float32)[:, None])
    region = group * HOW.group + tl.arange(0, HOW.group)
    row = (image * count_regions(HOW, SIDE) + region) * HOW.row
    held = (region < count_regions(HOW, SIDE))[:, None] & (channel < HOW.row)[None, :]
    tl.store(mean + row[:, None] + channel[None, :], average, mask=held)


@triton.jit
def all_channels_of(x, image, token, real, channel, HOW: tl.constexpr):
    """Where some channels of tokens are, counted over all heads, ``(lanes, channels)``, and which
    there are."""
    offset = image * x.strides[0] + token.to(tl.int64) * x.strides[1]
    wide = channel.to(tl.int64)
    across = wide // HOW.head_dim * x.strides[2] + wide % HOW.head_dim * x.strides[3]
    held = real[:, None] & (channel < HOW.channels)[None, :]
    return x.at + offset[:, None] + across[None, :], held


@triton.jit
def choose_regions(q_mean, k_mean, index, score, tiles, sizes, HOW: tl.constexpr):
    """``index``, int64, and ``score``, float32, ``(N, R, k)``; each program computes the routes of
    some query regions. One after the other, the best of the key regions is taken."""
    image, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    row, column = tile * HOW.rows + tl.arange(0, HOW.rows), tl.arange(0, HOW.columns)
    there = row < sizes.q_regions
    scores = scores_of(q_mean, k_mean, image, row, column, sizes, HOW)
    ranks = ranks_of(scores, column[None, :], sizes.k_regions)
    at = (image * sizes.q_regions + row) * sizes.topk
    for place in range(sizes.topk):
        best = tl.max(ranks, 1)
        tl.store(index + at + place, region_of(best), mask=there)
        tl.store(score + at + place, score_of(best), mask=there)
        ranks = tl.where(ranks == best[:, None], LOWEST, ranks)


@triton.jit
def scores_of(q_mean, k_mean, image, row, column, sizes, HOW: tl.constexpr):
    """Products of means ``(rows, columns)``."""
    q_row = (image * sizes.q_regions + row) * sizes.row
    k_row = (image * sizes.k_regions + column) * sizes.row
    q_there, k_there = row < sizes.q_regions, column < sizes.k_regions
    scores = tl.full([HOW.rows, HOW.columns], 0.0, tl.float32)
    for start in range(0, sizes.row, HOW.step):
        channel = start + tl.arange(0, HOW.step)[None, :]
        queries = tl.load(q_mean + q_row[:, None] + channel, mask=q_there[:, None], other=0.0)
        keys = tl.load(k_mean + k_row[:, None] + channel, mask=k_there[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), scores, input_precision=HOW.precision)
    return scores


@triton.jit
def ranks_of(score, region, regions):
    """Integers in the order of routing, none twice: a higher score has a higher rank, and of equal
    scores the lower region. NaN counts as the lowest score; both zeros are equal.

    The bits of positive floats are in their order as integers; those of negative ones are, too,
    when all but the sign are inverted. Below them are those of the region, inverted.
    """
    score = tl.where(score == score, score, float("-inf"))
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & NO_SIGN)).to(tl.int64)
    return tl.where(region < regions, (ordered << 32) | (region ^ NO_SIGN), LOWEST)


@triton.jit
def region_of(rank):
    """The region that has a rank."""
    return (rank & NO_SIGN) ^ NO_SIGN


@triton.jit
def score_of(rank):
    """The score of the region that has a rank."""
    ordered = (rank >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & NO_SIGN)).to(tl.float32, bitcast=True)
