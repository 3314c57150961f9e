"""Where query regions are routed to: the means of regions, their products, the best of those.

No program adds to what another wrote: the same tokens give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bilevel_triton.kernels.tokens import KEYS, QUERIES, num_regions, region_extent, tokens_of

LOWEST = tl.constexpr(-(2**63))
"""The rank, of 64 bits, of what is no region or was chosen before."""

NO_SIGN = tl.constexpr(2**31 - 1)
"""All bits of 32 but the sign."""


@triton.jit
def average_regions(q, k, q_mean, k_mean, spatial, META: tl.constexpr):
    """``q_mean`` and ``k_mean``, float32 ``(N, R, padded_channels)``, with zeros behind the
    ``M * D`` means.

    Each program computes some channels of a tile of regions: of an image's queries first, then of
    its keys.
    """
    channel_tiles = tl.cdiv(META.padded_channels, META.tile_channels)
    q_tiles = tl.cdiv(num_regions(META, QUERIES), META.tile_regions)
    num_tiles = q_tiles + tl.cdiv(num_regions(META, KEYS), META.tile_regions)
    channel_tile, number = tl.program_id(0) % channel_tiles, tl.program_id(0) // channel_tiles
    image, tile = number // num_tiles, number % num_tiles
    if tile < q_tiles:
        average_tile(q, q_mean, image, tile, channel_tile, spatial, META, QUERIES)
    else:
        average_tile(k, k_mean, image, tile - q_tiles, channel_tile, spatial, META, KEYS)


@triton.jit
def average_tile(
    x, mean, image, tile, channel_tile, spatial, META: tl.constexpr, SIDE: tl.constexpr
):
    """Each region has rows, which read different tokens and are added when all have been read."""
    _t0, _t1, _t2, size = region_extent(spatial, META, SIDE)
    row = tl.arange(0, META.tile_regions * META.tile_rows)
    region = tile * META.tile_regions + row // META.tile_rows
    channel = channel_tile * META.tile_channels + tl.arange(0, META.tile_channels)
    image = image.to(tl.int64)
    sums = tl.full([META.tile_regions * META.tile_rows, META.tile_channels], 0.0, tl.float32)
    count = tl.full([META.tile_regions * META.tile_rows], 0, tl.int32)
    for start in range(0, size, META.tile_rows):
        token, valid = tokens_of(region, start + row % META.tile_rows, spatial, META, SIDE)
        valid = valid & (region < num_regions(META, SIDE))
        ptrs, mask = channel_ptrs(x, image, token, valid, channel, META)
        sums += tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
        count += valid.to(tl.int32)
    by_region: tl.constexpr = [META.tile_regions, META.tile_rows, META.tile_channels]
    region_sums = tl.sum(tl.reshape(sums, by_region), 1)
    tokens = tl.sum(tl.reshape(count, [META.tile_regions, META.tile_rows]), 1)
    average = tl.div_rn(region_sums, tl.maximum(tokens, 1).to(tl.float32)[:, None])
    region = tile * META.tile_regions + tl.arange(0, META.tile_regions)
    offset = (image * num_regions(META, SIDE) + region) * META.padded_channels
    mask = (region < num_regions(META, SIDE))[:, None] & (channel < META.padded_channels)[None, :]
    tl.store(mean + offset[:, None] + channel[None, :], average, mask=mask)


@triton.jit
def channel_ptrs(x, image, token, valid, channel, META: tl.constexpr):
    """Pointers to channels, counted over all heads, of tokens, ``(rows, channels)``, and the mask
    of those that exist."""
    offset = image * x.strides[0] + token.to(tl.int64) * x.strides[1]
    wide = channel.to(tl.int64)
    across = wide // META.head_dim * x.strides[2] + wide % META.head_dim * x.strides[3]
    mask = valid[:, None] & (channel < META.num_channels)[None, :]
    return x.ptr + offset[:, None] + across[None, :], mask


@triton.jit
def choose_regions(q_mean, k_mean, index, score, num_tiles, shape, META: tl.constexpr):
    """``index``, int64, and ``score``, float32, ``(N, R, k)``; each program computes the routes of
    some query regions. One after the other, the best of the key regions is taken."""
    image, tile = (tl.program_id(0) // num_tiles).to(tl.int64), tl.program_id(0) % num_tiles
    q_region = tile * META.tile_rows + tl.arange(0, META.tile_rows)
    k_region = tl.arange(0, META.tile_columns)
    mask = q_region < shape.q_regions
    scores = scores_of(q_mean, k_mean, image, q_region, k_region, shape, META)
    ranks = ranks_of(scores, k_region[None, :], shape.k_regions)
    offset = (image * shape.q_regions + q_region) * shape.topk
    for nth in range(shape.topk):
        best = tl.max(ranks, 1)
        tl.store(index + offset + nth, region_of(best), mask=mask)
        tl.store(score + offset + nth, score_of(best), mask=mask)
        ranks = tl.where(ranks == best[:, None], LOWEST, ranks)


@triton.jit
def scores_of(q_mean, k_mean, image, q_region, k_region, shape, META: tl.constexpr):
    """Products of means, ``(query regions, key regions)``."""
    q_offset = (image * shape.q_regions + q_region) * shape.padded_channels
    k_offset = (image * shape.k_regions + k_region) * shape.padded_channels
    q_mask, k_mask = q_region < shape.q_regions, k_region < shape.k_regions
    scores = tl.full([META.tile_rows, META.tile_columns], 0.0, tl.float32)
    for start in range(0, shape.padded_channels, META.tile_channels):
        channel = start + tl.arange(0, META.tile_channels)[None, :]
        q_part = tl.load(q_mean + q_offset[:, None] + channel, mask=q_mask[:, None], other=0.0)
        k_part = tl.load(k_mean + k_offset[:, None] + channel, mask=k_mask[:, None], other=0.0)
        scores = tl.dot(q_part, tl.trans(k_part), scores, input_precision=META.precision)
    return scores


@triton.jit
def ranks_of(score, region, num_regions):
    """Integers in the order of routing, none twice: a higher score has a higher rank, and of equal
    scores the lower region. NaN counts as the lowest score; both zeros are equal.

    The bits of positive floats are in their order as integers; those of negative ones are, too,
    when all but the sign are inverted. Below them are those of the region, inverted.
    """
    score = tl.where(score == score, score, float("-inf"))
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & NO_SIGN)).to(tl.int64)
    return tl.where(region < num_regions, (ordered << 32) | (region ^ NO_SIGN), LOWEST)


@triton.jit
def region_of(rank):
    """The region that has a rank."""
    return (rank & NO_SIGN) ^ NO_SIGN


@triton.jit
def score_of(rank):
    """The score of the region that has a rank."""
    ordered = (rank >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & NO_SIGN)).to(tl.float32, bitcast=True)
