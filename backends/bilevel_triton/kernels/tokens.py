"""Where the tokens of regions are: partition into regions is only addressing.

A tile has *rows*, one for each token: either some whole regions, each with its positions side by
side, or a part of one region. A row that is *valid* has a token; the others pad the tile.
``spatial`` holds the tokens per axis of queries and of keys; functions are told a ``SIDE``, which
of the two they are about.
"""

from __future__ import annotations

import triton
import triton.language as tl

QUERIES = tl.constexpr(0)
KEYS = tl.constexpr(1)


@triton.jit
def region_extent(spatial, META: tl.constexpr, SIDE: tl.constexpr):
    """The tokens of the largest region: on each axis, and in all."""
    t0 = tl.cdiv(spatial[SIDE][0], META.regions[SIDE][0])
    t1 = tl.cdiv(spatial[SIDE][1], META.regions[SIDE][1])
    t2 = tl.cdiv(spatial[SIDE][2], META.regions[SIDE][2])
    return t0, t1, t2, t0 * t1 * t2


@triton.jit
def num_regions(META: tl.constexpr, SIDE: tl.constexpr):
    """The regions of all axes."""
    return META.regions[SIDE][0] * META.regions[SIDE][1] * META.regions[SIDE][2]


@triton.jit
def first_token(region, tokens, REGIONS: tl.constexpr):
    """``region * tokens // REGIONS``, right even where that product does not fit 32 bits."""
    return region * (tokens // REGIONS) + region * (tokens % REGIONS) // REGIONS


@triton.jit
def tokens_of(region, position, spatial, META: tl.constexpr, SIDE: tl.constexpr):
    """The tokens at positions of regions, and which of them are valid. Regions, positions and
    tokens are counted in row-major order.

    Regions are one scalar, or one for each row. Divisors are constants, hence cheap, or do not
    change from one tile to the next.
    """
    _t0, t1, t2, _size = region_extent(spatial, META, SIDE)
    n0, n1, n2 = spatial[SIDE][0], spatial[SIDE][1], spatial[SIDE][2]
    s0: tl.constexpr = META.regions[SIDE][0]
    s1: tl.constexpr = META.regions[SIDE][1]
    s2: tl.constexpr = META.regions[SIDE][2]
    r0, r1, r2 = region // s2 // s1, region // s2 % s1, region % s2
    token0 = first_token(r0, n0, s0) + position // t2 // t1
    token1 = first_token(r1, n1, s1) + position // t2 % t1
    token2 = first_token(r2, n2, s2) + position % t2
    valid = token0 < first_token(r0 + 1, n0, s0)
    if META.ragged:
        valid = valid & (token1 < first_token(r1 + 1, n1, s1))
        valid = valid & (token2 < first_token(r2 + 1, n2, s2))
    return (token0 * n1 + token1) * n2 + token2, valid


@triton.jit
def row_ptrs(x, image, head, token, valid, CHANNELS: tl.constexpr, ROUNDED: tl.constexpr):
    """Pointers to the channels of tokens, ``(rows, ROUNDED)``, and the mask of those that exist."""
    channel = tl.arange(0, ROUNDED)[None, :].to(tl.int64)
    offset = token.to(tl.int64) * x.strides[1]
    wide = tl.zeros_like(offset)
    offset += (wide + image) * x.strides[0] + (wide + head) * x.strides[2]
    mask = valid[:, None]
    if CHANNELS != ROUNDED:
        mask = mask & (channel < CHANNELS)
    return x.ptr + offset[:, None] + channel * x.strides[3], mask


@triton.jit
def load_rows(x, image, head, token, valid, CHANNELS: tl.constexpr, ROUNDED: tl.constexpr):
    """The channels of tokens; zeros where there is no token or no channel."""
    ptrs, mask = row_ptrs(x, image, head, token, valid, CHANNELS, ROUNDED)
    return tl.load(ptrs, mask=mask, other=0.0)


@triton.jit
def store_rows(x, image, head, token, valid, rows, CHANNELS: tl.constexpr, ROUNDED: tl.constexpr):
    """The inverse of :func:`load_rows`."""
    ptrs, mask = row_ptrs(x, image, head, token, valid, CHANNELS, ROUNDED)
    tl.store(ptrs, rows.to(x.ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_pair(x, y, image, head, token, valid, META: tl.constexpr):
    """Rows of ``x``, as wide as keys (queries or keys), and of ``y``, as wide as values (values or
    the gradient of the output)."""
    x_rows = load_rows(x, image, head, token, valid, META.head_dim, META.head_dim_rounded)
    return x_rows, load_rows(y, image, head, token, valid, META.value_dim, META.value_dim_rounded)


@triton.jit
def store_pair(x, y, image, head, token, valid, x_rows, y_rows, META: tl.constexpr):
    """The inverse of :func:`load_pair`."""
    store_rows(x, image, head, token, valid, x_rows, META.head_dim, META.head_dim_rounded)
    store_rows(y, image, head, token, valid, y_rows, META.value_dim, META.value_dim_rounded)


@triton.jit
def stationary_tile(tile, spatial, META: tl.constexpr, SIDE: tl.constexpr):
    """The tokens that a program keeps: those of a group of regions, or a part of one region's.

    Returns the first region; for each row the bit of the group mask that stands for its region;
    the tokens; and which rows are valid.
    """
    _t0, _t1, _t2, size = region_extent(spatial, META, SIDE)
    row = tl.arange(0, META.stationary_rows)
    if META.group_size == 1:
        tiles_per_region = tl.cdiv(size, META.stationary_rows)
        first_region = tile // tiles_per_region
        group_bit = tl.zeros_like(row)
        position = row + tile % tiles_per_region * META.stationary_rows
        token, valid = tokens_of(first_region, position, spatial, META, SIDE)
    else:
        first_region = tile * META.group_size
        group_bit = row // size
        token, valid = tokens_of(first_region + group_bit, row % size, spatial, META, SIDE)
        valid = valid & (group_bit < META.group_size)
        valid = valid & (first_region + group_bit < num_regions(META, SIDE))
    return first_region, group_bit, token, valid


@triton.jit
def num_steps(num_blocks, spatial, META: tl.constexpr, SIDE: tl.constexpr):
    """The number of streamed tiles that a block list of ``num_blocks`` regions makes."""
    _t0, _t1, _t2, size = region_extent(spatial, META, SIDE)
    if META.regions_per_step > 1:
        return tl.cdiv(num_blocks, META.regions_per_step)
    return num_blocks * tl.cdiv(size, META.streamed_rows)


@triton.jit
def streamed_tile(step, indices, num_blocks, spatial, META: tl.constexpr, SIDE: tl.constexpr):
    """The tokens of one step through a block list: those of the next regions, as many as fit a
    tile, or a part of the next region's.

    Returns for each row the entry of the list that its region is, the tokens, and which rows are
    valid. Entries that are no region have no tokens.
    """
    _t0, _t1, _t2, size = region_extent(spatial, META, SIDE)
    row = tl.arange(0, META.streamed_rows)
    if META.regions_per_step > 1:
        nth = row // size
        entry = step * META.regions_per_step + nth
        mask = (nth < META.regions_per_step) & (entry < num_blocks)
        region = tl.load(indices + entry, mask=mask, other=-1).to(tl.int32)
        position = row % size
    else:
        steps_per_region = 1 if META.region_fits else tl.cdiv(size, META.streamed_rows)
        entry = step // steps_per_region
        region = tl.load(indices + entry).to(tl.int32)
        position = row + step % steps_per_region * META.streamed_rows
    token, valid = tokens_of(region, position, spatial, META, SIDE)
    row_region = region + tl.zeros_like(row)
    valid = valid & (row_region >= 0) & (row_region < num_regions(META, SIDE))
    return entry + tl.zeros_like(row), token, valid


@triton.jit
def routed_pairs(group_masks, entry, valid, group_bit):
    """Which rows of a streamed tile each row of a group's stationary tile is routed together
    with, ``(stationary rows, streamed rows)``."""
    group_mask = tl.load(group_masks + entry, mask=valid, other=0)
    return ((group_mask[None, :] >> group_bit[:, None]) & 1) != 0


@triton.constexpr_function
def largest_finite(dtype):
    """The largest finite number of a dtype."""
    return {
        "fp16": 65504.0,
        "bf16": float.fromhex("0x1.fep127"),
        "fp32": float.fromhex("0x1.fffffep127"),
    }[dtype.name]


@triton.jit
def replace_nonfinite(rows):
    """Rows with finite numbers in place of NaN and infinity; and for each row NaN if it had any,
    else 0.

    In a group a weight of zero meets rows that are not routed to, and zero times NaN is NaN.
    """
    wide = rows.to(tl.float32)
    largest: tl.constexpr = largest_finite(rows.dtype)
    finite = tl.minimum(tl.maximum(wide, -largest), largest)  # of a number and NaN, the number
    return finite.to(rows.dtype), tl.sum(wide * 0.0, 1)
