"""How the tokens of a call are dealt to blocks of threads: a plain rule from the shape.

A block keeps a tile of tokens of one side, queries or keys, 16 for each of its warps, and walks
over tokens of the other.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

from bilevel.grid import Grid

LANES = 16
"""Tokens of a warp: the rows of a product of tensor cores."""

SMALL = 8
"""Regions of at most so many tokens share a tile with their neighbours."""

SCORE_BYTES = {2: 1.4, 4: 6.0, 8: 12.0}
"""A score takes about the time of so many bytes of keys and values, by the bytes of a number: by
the rates of an H200's data sheet, and not measured."""


class Tiles(NamedTuple):
    """The tiles of one kernel."""

    group: int
    """Regions that share one; a bit of 32 each."""
    warps: int
    """Of a block."""
    per_image: int
    """Tiles."""

    @property
    def lanes(self) -> int:
        return LANES * self.warps


def padded(channels: int) -> int:
    """The channels that a kernel is compiled for: 16, 32, 64 or 128."""
    return max(16, 1 << (channels - 1).bit_length())


def walked_rows(walk: float, channels: int, itemsize: int, *, backward: bool) -> int:
    """How many tokens are walked over at a time, of about ``walk``. Registers hold their scores
    beside sums of as many channels, and in the backward pass the gradients of both."""
    if itemsize == 8:
        return 8
    wide = channels <= 64 and walk > 32 and not backward
    return (64 if wide else 32) * 2 // itemsize


@lru_cache(maxsize=1024)
def tiles(kept: Grid, walked: Grid, routes: float, channels: int, itemsize: int) -> Tiles:
    """The tiles of a kernel that keeps tokens of one grid and walks over the other's.

    ``routes`` is how many regions one of the kept grid's is routed together with on average, and
    ``channels`` what the kernel is compiled for.
    """
    row_bytes = channels * itemsize
    most = max(1, min(4, 1024 // row_bytes))  # what shared memory has room for
    tokens = kept.region_tokens
    if tokens <= SMALL:
        score, row = SCORE_BYTES[itemsize], 2 * row_bytes

        def time(tiles: Tiles) -> float:
            # Of the regions that any of a group's is routed to, if routes were drawn at random.
            met = 1 - (1 - min(1.0, routes / walked.num_regions)) ** tiles.group
            return tiles.per_image * met * (tiles.lanes * score + row)

        return min((_grouped(kept, warps) for warps in range(1, most + 1)), key=time)
    parts = ceil(tokens / (LANES * most))
    return Tiles(1, ceil(tokens / parts / LANES), kept.num_regions * parts)


def _grouped(kept: Grid, warps: int) -> Tiles:
    """As many regions as fit, dealt evenly."""
    most = min(32, LANES * warps // kept.region_tokens)
    count = ceil(kept.num_regions / most)
    group = ceil(kept.num_regions / count)
    return Tiles(group, ceil(group * kept.region_tokens / LANES), ceil(kept.num_regions / group))
