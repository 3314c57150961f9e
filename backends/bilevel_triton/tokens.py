"""Where the tokens of regions are, within kernels: partition into regions is only addressing.

Every grid has three axes here; one of fewer has axes of one token in front. A tile has *lanes*:
either some whole regions, each with its places side by side, or a part of one region. Triples have
a value for each axis; ``sizes`` are the tokens of the axes, ``SPLIT`` their regions.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def largest_of(dtype):
    """The largest finite number of a dtype."""
    return {
        "fp16": 65504.0,
        "bf16": float.fromhex("0x1.fep127"),
        "fp32": float.fromhex("0x1.fffffep127"),
    }[dtype.name]


@triton.jit
def region_shape(sizes, SPLIT: tl.constexpr):
    """Tokens of the largest region, on each axis."""
    return (
        tl.cdiv(sizes[0], SPLIT[0]),
        tl.cdiv(sizes[1], SPLIT[1]),
        tl.cdiv(sizes[2], SPLIT[2]),
    )


@triton.jit
def unravel(place, shape):
    """A place of a region, counted in row-major order, on each axis."""
    row = place // shape[2]
    return (row // shape[1], row % shape[1], place % shape[2])


@triton.jit
def tokens_of(region, place, sizes, SPLIT: tl.constexpr, RAGGED: tl.constexpr):
    """The token at a place of a region, counted in row-major order; and whether there is one.

    Regions are scalars, or lanes. Divisors are constants, hence cheap.
    """
    row = region // SPLIT[2]
    r0, r1, r2 = row // SPLIT[1], row % SPLIT[1], region % SPLIT[2]
    t0 = r0 * sizes[0] // SPLIT[0] + place[0]
    t1 = r1 * sizes[1] // SPLIT[1] + place[1]
    t2 = r2 * sizes[2] // SPLIT[2] + place[2]
    real = t0 < (r0 + 1) * sizes[0] // SPLIT[0]
    if RAGGED:
        real = real & (t1 < (r1 + 1) * sizes[1] // SPLIT[1])
        real = real & (t2 < (r2 + 1) * sizes[2] // SPLIT[2])
    return (t0 * sizes[1] + t1) * sizes[2] + t2, real


@triton.jit
def rows_of(x, strides, image, head, token):
    """Pointers to the channels of tokens, as a column; ``strides`` are those of
    ``(N, tokens, M, D)``."""
    offset = token.to(tl.int64) * strides[1]
    wide = tl.zeros_like(offset)
    offset += (wide + image) * strides[0] + (wide + head) * strides[2]
    return x + offset[:, None]


@triton.jit
def load_rows(x, strides, image, head, token, real, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """``(lanes, BLOCK)`` channels of tokens; zeros where there is no token or no channel."""
    channel = tl.arange(0, BLOCK)[None, :]
    pointers = rows_of(x, strides, image, head, token) + channel * strides[3]
    mask = real[:, None]
    if CHANNELS != BLOCK:
        mask = mask & (channel < CHANNELS)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_rows(
    x, strides, image, head, token, real, rows, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """The inverse of :func:`load_rows`."""
    channel = tl.arange(0, BLOCK)[None, :]
    pointers = rows_of(x, strides, image, head, token) + channel * strides[3]
    mask = real[:, None]
    if CHANNELS != BLOCK:
        mask = mask & (channel < CHANNELS)
    tl.store(pointers, rows.to(x.dtype.element_ty), mask=mask)


@triton.jit
def resident_tile(
    tile, sizes, SPLIT: tl.constexpr, RAGGED: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """The tokens that a program keeps: those of a group of regions, or a part of one region's.

    Returns the first region, which region of the group each lane is of, the tokens, and which
    lanes have one.
    """
    shape = region_shape(sizes, SPLIT)
    size = shape[0] * shape[1] * shape[2]
    lane = tl.arange(0, BLOCK)
    if GROUP == 1:
        parts = tl.cdiv(size, BLOCK)
        first = tile // parts
        slot = tl.zeros_like(lane)
        place = unravel(lane + tile % parts * BLOCK, shape)
        token, real = tokens_of(first, place, sizes, SPLIT, RAGGED)
    else:
        first = tile * GROUP
        slot = lane // size
        token, real = tokens_of(first + slot, unravel(lane % size, shape), sizes, SPLIT, RAGGED)
        real = real & (slot < GROUP) & (first + slot < SPLIT[0] * SPLIT[1] * SPLIT[2])
    return first, slot, token, real


@triton.jit
def walk_steps(count, sizes, SPLIT: tl.constexpr, PER: tl.constexpr, BLOCK: tl.constexpr):
    """How many tiles there are to walk over, of ``count`` regions."""
    if PER > 1:
        return tl.cdiv(count, PER)
    shape = region_shape(sizes, SPLIT)
    return count * tl.cdiv(shape[0] * shape[1] * shape[2], BLOCK)


@triton.jit
def walked_tile(
    step,
    regions,
    count,
    sizes,
    SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    PER: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The tokens that a program walks over in one step: those of the next ``PER`` regions of the
    list, or a part of the next one's where regions do not fit a tile ``WHOLE``.

    Returns the place of each lane's region in the list, the tokens, and which lanes have one.
    Routes to regions that there are not have no tokens.
    """
    shape = region_shape(sizes, SPLIT)
    size = shape[0] * shape[1] * shape[2]
    lane = tl.arange(0, BLOCK)
    if PER > 1:
        slot = lane // size
        entry = step * PER + slot
        listed = (slot < PER) & (entry < count)
        region = tl.load(regions + entry, mask=listed, other=-1).to(tl.int32)
        place = lane % size
    else:
        entry = step
        place = lane
        if not WHOLE:
            parts = tl.cdiv(size, BLOCK)
            entry = step // parts
            place += step % parts * BLOCK
        region = tl.load(regions + entry).to(tl.int32)
    token, real = tokens_of(region, unravel(place, shape), sizes, SPLIT, RAGGED)
    of_lane = region + tl.zeros_like(lane)
    real = real & (of_lane >= 0) & (of_lane < SPLIT[0] * SPLIT[1] * SPLIT[2])
    return entry, token, real


@triton.jit
def pairs(members, entry, real, slot):
    """Which lanes of a walked tile the lanes of a group's tile are routed together with."""
    of_lane = tl.load(members + entry + tl.where(real, 0, 0), mask=real, other=0)
    return ((of_lane[None, :] >> slot[:, None]) & 1) != 0


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
