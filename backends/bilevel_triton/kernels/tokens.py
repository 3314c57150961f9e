"""Where the tokens of regions are: partition into regions is only addressing.

A tile has *lanes*: either some whole regions, each with its places side by side, or a part of one.
Functions are told a ``SIDE``: queries or keys.
"""

from __future__ import annotations

import triton
import triton.language as tl

QUERIES = tl.constexpr(0)
KEYS = tl.constexpr(1)


@triton.jit
def region_shape(shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """Tokens of the largest region, on each axis, and in all."""
    t0 = tl.cdiv(shape.sizes[SIDE][0], HOW.split[SIDE][0])
    t1 = tl.cdiv(shape.sizes[SIDE][1], HOW.split[SIDE][1])
    t2 = tl.cdiv(shape.sizes[SIDE][2], HOW.split[SIDE][2])
    return t0, t1, t2, t0 * t1 * t2


@triton.jit
def count_regions(HOW: tl.constexpr, SIDE: tl.constexpr):
    """Of all axes."""
    return HOW.split[SIDE][0] * HOW.split[SIDE][1] * HOW.split[SIDE][2]


@triton.jit
def first_token(region, tokens, REGIONS: tl.constexpr):
    """``region * tokens // REGIONS``, where that product does not fit 32 bits too."""
    return region * (tokens // REGIONS) + region * (tokens % REGIONS) // REGIONS


@triton.jit
def tokens_of(region, place, shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """The tokens at places of regions, all counted in row-major order; and which there are.

    Regions are scalars, or lanes. Divisors are constants, hence cheap, or do not change from one
    tile to the next.
    """
    _t0, t1, t2, _size = region_shape(shape, HOW, SIDE)
    n0, n1, n2 = shape.sizes[SIDE][0], shape.sizes[SIDE][1], shape.sizes[SIDE][2]
    s0: tl.constexpr = HOW.split[SIDE][0]
    s1: tl.constexpr = HOW.split[SIDE][1]
    s2: tl.constexpr = HOW.split[SIDE][2]
    r0, r1, r2 = region // s2 // s1, region // s2 % s1, region % s2
    token0 = first_token(r0, n0, s0) + place // t2 // t1
    token1 = first_token(r1, n1, s1) + place // t2 % t1
    token2 = first_token(r2, n2, s2) + place % t2
    real = token0 < first_token(r0 + 1, n0, s0)
    if HOW.ragged:
        real = real & (token1 < first_token(r1 + 1, n1, s1))
        real = real & (token2 < first_token(r2 + 1, n2, s2))
    return (token0 * n1 + token1) * n2 + token2, real


@triton.jit
def channels_of(x, image, head, token, real, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Where the channels of tokens are, ``(lanes, BLOCK)``, and which there are."""
    channel = tl.arange(0, BLOCK)[None, :].to(tl.int64)
    offset = token.to(tl.int64) * x.strides[1]
    wide = tl.zeros_like(offset)
    offset += (wide + image) * x.strides[0] + (wide + head) * x.strides[2]
    held = real[:, None]
    if CHANNELS != BLOCK:
        held = held & (channel < CHANNELS)
    return x.at + offset[:, None] + channel * x.strides[3], held


@triton.jit
def load_rows(x, image, head, token, real, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """The channels of tokens; zeros where there is no token or no channel."""
    at, held = channels_of(x, image, head, token, real, CHANNELS, BLOCK)
    return tl.load(at, mask=held, other=0.0)


@triton.jit
def store_rows(x, image, head, token, real, rows, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of :func:`load_rows`."""
    at, held = channels_of(x, image, head, token, real, CHANNELS, BLOCK)
    tl.store(at, rows.to(x.at.dtype.element_ty), mask=held)


@triton.jit
def kept_tile(tile, shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """The tokens that a program keeps: those of a group of regions, or a part of one region's.

    Returns the first region, which region of the group each lane is of, the tokens, and which
    lanes have one.
    """
    _t0, _t1, _t2, size = region_shape(shape, HOW, SIDE)
    lane = tl.arange(0, HOW.kept_lanes)
    if HOW.group == 1:
        parts = tl.cdiv(size, HOW.kept_lanes)
        first = tile // parts
        slot = tl.zeros_like(lane)
        place = lane + tile % parts * HOW.kept_lanes
        token, real = tokens_of(first, place, shape, HOW, SIDE)
    else:
        first = tile * HOW.group
        slot = lane // size
        token, real = tokens_of(first + slot, lane % size, shape, HOW, SIDE)
        real = real & (slot < HOW.group) & (first + slot < count_regions(HOW, SIDE))
    return first, slot, token, real


@triton.jit
def walk_steps(count, shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """How many tiles there are to walk over, of ``count`` regions."""
    _t0, _t1, _t2, size = region_shape(shape, HOW, SIDE)
    if HOW.per > 1:
        return tl.cdiv(count, HOW.per)
    return count * tl.cdiv(size, HOW.walked_lanes)


@triton.jit
def walked_tile(step, regions, count, shape, HOW: tl.constexpr, SIDE: tl.constexpr):
    """The tokens that a program walks over in one step: those of the next regions of a list, as
    many as fit a tile, or a part of the next one's.

    Returns the place of each lane's region in the list, the tokens, and which lanes have one.
    Routes to regions that there are not have no tokens.
    """
    _t0, _t1, _t2, size = region_shape(shape, HOW, SIDE)
    lane = tl.arange(0, HOW.walked_lanes)
    if HOW.per > 1:
        slot = lane // size
        entry = step * HOW.per + slot
        listed = (slot < HOW.per) & (entry < count)
        region = tl.load(regions + entry, mask=listed, other=-1).to(tl.int32)
        place = lane % size
    else:
        parts = 1 if HOW.whole else tl.cdiv(size, HOW.walked_lanes)
        entry = step // parts
        region = tl.load(regions + entry).to(tl.int32)
        place = lane + step % parts * HOW.walked_lanes
    token, real = tokens_of(region, place, shape, HOW, SIDE)
    of_lane = region + tl.zeros_like(lane)
    real = real & (of_lane >= 0) & (of_lane < count_regions(HOW, SIDE))
    return entry + tl.zeros_like(lane), token, real


@triton.jit
def pairs(members, entry, real, slot):
    """Which lanes of a walked tile the lanes of a group's tile are routed together with."""
    of_lane = tl.load(members + entry, mask=real, other=0)
    return ((of_lane[None, :] >> slot[:, None]) & 1) != 0


@triton.constexpr_function
def largest_of(dtype):
    """The largest finite number of a dtype."""
    return {
        "fp16": 65504.0,
        "bf16": float.fromhex("0x1.fep127"),
        "fp32": float.fromhex("0x1.fffffep127"),
    }[dtype.name]


@triton.jit
def quarantine(rows):
    """Rows with finite numbers in the place of what is not finite; and for each row 0, or NaN where
    there was such.

    In a group a weight of zero meets rows that are not routed to, and zero times NaN is NaN.
    """
    wide = rows.to(tl.float32)
    largest: tl.constexpr = largest_of(rows.dtype)
    clean = tl.minimum(tl.maximum(wide, -largest), largest)  # of a number and NaN, the number
    return clean.to(rows.dtype), tl.sum(wide * 0.0, 1)
