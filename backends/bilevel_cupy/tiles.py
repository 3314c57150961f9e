"""The tiles of a kernel, and the rows it streams: a plain rule from the shape.

A thread block computes a stationary tile of one side, queries or keys, with 16 rows for each of its
warps; the rows of the other side are streamed.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

from bilevel.grid import Grid

WARP_ROWS = 16
"""Rows of a tile for each warp: those of a product of tensor cores."""

SMALL_REGION = 8
"""Most tokens of regions that share a tile with their neighbours."""

SCORE_BYTES = {2: 1.4, 4: 6.0, 8: 12.0}
"""Bytes of keys and values, by the bytes of an element, that take about the time of one score: by
the rates of an H200's data sheet, and not measured."""


class Tiles(NamedTuple):
    """The stationary tiles of one kernel."""

    group: int
    """Regions that share a tile; each has a bit of the 32 of a group mask."""
    warps: int
    """Warps of a thread block."""
    per_image: int
    """Tiles of an image."""

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return WARP_ROWS * self.warps


def padded(channels: int) -> int:
    """The channels that a kernel is compiled for: 16, 32, 64 or 128."""
    return max(16, 1 << (channels - 1).bit_length())


def streamed_rows(mean_rows: float, channels: int, itemsize: int, *, backward: bool) -> int:
    """The rows that a kernel streams in one step, where a region streams ``mean_rows`` on average.
    Registers hold their scores beside sums of as many channels, and in the backward pass the
    gradients of both."""
    if itemsize == 8:
        return 8
    wide = channels <= 64 and mean_rows > 32 and not backward
    return (64 if wide else 32) * 2 // itemsize


@lru_cache(maxsize=1024)
def tiles(
    stationary: Grid, streamed: Grid, mean_blocks: float, channels: int, itemsize: int
) -> Tiles:
    """The tiles of a kernel whose stationary side has one grid, and whose streamed side the other.

    ``mean_blocks`` is how many regions a stationary one streams on average, and ``channels`` what
    the kernel is compiled for.
    """
    row_bytes = channels * itemsize
    max_warps = max(1, min(4, 1024 // row_bytes))  # for which shared memory has room
    tokens = stationary.region_tokens
    if tokens <= SMALL_REGION:
        score, row = SCORE_BYTES[itemsize], 2 * row_bytes

        def time(tiles: Tiles) -> float:
            # The share of regions that a group streams, if routes were drawn at random.
            share = 1 - (1 - min(1.0, mean_blocks / streamed.num_regions)) ** tiles.group
            return tiles.per_image * share * (tiles.rows * score + row)

        return min((_grouped(stationary, warps) for warps in range(1, max_warps + 1)), key=time)
    parts = ceil(tokens / (WARP_ROWS * max_warps))
    return Tiles(1, ceil(tokens / parts / WARP_ROWS), stationary.num_regions * parts)


def _grouped(stationary: Grid, warps: int) -> Tiles:
    """Groups of as many regions as fit, of nearly equal sizes."""
    fit = min(32, WARP_ROWS * warps // stationary.region_tokens)
    count = ceil(stationary.num_regions / fit)
    group = ceil(stationary.num_regions / count)
    rows = group * stationary.region_tokens
    return Tiles(group, ceil(rows / WARP_ROWS), ceil(stationary.num_regions / group))
