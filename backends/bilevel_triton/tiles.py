"""How the tokens of a call are divided into the tiles of kernels: a plain rule from the shape.

A program of a kernel for attention keeps one *stationary* tile and passes *streamed* ones, as
flash-attention does with BLOCK_M and BLOCK_N rows.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple, TypeAlias

from bilevel.grid import Grid

SMALL_REGION = 8
"""Most tokens of regions that share a stationary tile with their neighbours."""

SMALL_REGION_HEAD_DIM = {2: 64, 4: 32}
"""Most channels per head, by item size, for which small regions share a tile."""

MAX_GROUP_SIZE = 32
"""Most regions that share a stationary tile: a group mask has 32 bits."""

REGISTERS = {2: 120, 4: 92}
"""Registers of a thread that :func:`attention_warps` plans with, by item size. With more, some
kernels spill: found by compiling them."""

QK_BYTES = 1.4
"""Bytes of keys and values that are read in the time of one number of ``qk``. From the rates of an
H200's data sheet, not measured."""

TILE_NUMBERS = 4096
"""Most numbers of a tile of means or of routing scores."""

MEAN_ROWS = (16, 128)
"""Fewest and most rows of a tile of means."""

SCORE_ROWS = 16
"""Most query regions whose routes one program chooses."""

CHANNEL_STEP = 32
"""Most channels of means that are multiplied together; means are padded to a multiple."""

MAX_KEY_REGIONS = 1024
"""Most key regions whose routing scores fit a tile."""

MAX_ROUTES = 64
"""Most routes of a query region that are chosen one after the other."""

Axes: TypeAlias = tuple[int, int, int]
"""One number for each axis."""


class Side(NamedTuple):
    """The grid of queries or of keys on three axes; one of fewer has axes of one token in front.

    Fields are those of :class:`bilevel.Grid`.
    """

    spatial: Axes
    regions: Axes
    num_regions: int
    region_tokens: int
    uniform: bool


class Tiles(NamedTuple):
    """The shapes of the tiles of one kernel for attention."""

    group_size: int
    """Regions of a stationary tile; 1 also where a tile is a part of a region."""
    stationary_rows: int
    regions_per_step: int
    """Regions of a streamed tile; 1 also where a tile is a part of a region."""
    streamed_rows: int
    region_fits: bool
    """Whether a streamed tile holds a whole region."""
    warps: int
    stages: int
    """Streamed tiles in flight, as Triton's ``num_stages``."""

    def count(self, side: Side) -> int:
        """Stationary tiles of one image."""
        if self.group_size > 1:
            return ceil(side.num_regions / self.group_size)
        return side.num_regions * ceil(side.region_tokens / self.stationary_rows)


class MeanTile(NamedTuple):
    """The shape of the tiles of tokens that are averaged."""

    regions: int
    rows: int
    """Tokens of each region that are read together."""
    channels: int

    @property
    def warps(self) -> int:
        """16 numbers for each thread: with more, addresses of odd channels would spill."""
        return power_of_two(self.regions * self.rows * self.channels // 512, 8, smallest=1)


class ScoreTile(NamedTuple):
    """The shape of the tiles of scores that routes are chosen by."""

    rows: int
    """Query regions."""
    columns: int
    """All key regions, and padding."""
    channels: int
    """Channels of means that are multiplied together."""

    @property
    def warps(self) -> int:
        """8 or 16 scores for each thread: they are ranked by 64 bits."""
        return power_of_two(self.rows * self.columns // 256, 8, smallest=1)


def side(grid: Grid) -> Side:
    """A grid of one to three axes."""
    return Side(
        spatial=_three(grid.spatial),
        regions=_three(grid.regions),
        num_regions=grid.num_regions,
        region_tokens=grid.region_tokens,
        uniform=grid.uniform,
    )


def _three(axes: tuple[int, ...]) -> Axes:
    first, second, third = (*(1,) * (3 - len(axes)), *axes)
    return first, second, third


def attention_tiles(
    stationary: Side, streamed: Side, routes: float, channels: int, itemsize: int, results: int = 1
) -> Tiles:
    """The tiles of a kernel for attention with a stationary and a streamed side.

    ``routes`` is the average number of streamed regions that a stationary region is routed together
    with, ``channels`` the channels per head of keys or of values, whichever have more, and
    ``results`` the number of arrays that the kernel accumulates.
    """
    max_rows = (64 if channels * results <= 64 else 32) // (itemsize // 2)
    group_size, rows = 1, power_of_two(stationary.region_tokens, max_rows)
    if stationary.region_tokens <= SMALL_REGION and channels <= SMALL_REGION_HEAD_DIM[itemsize]:
        max_group_rows = 2 * max_rows if itemsize * results == 2 else max_rows
        token_bytes = channels * itemsize
        group_size, rows = group_tile(stationary, streamed, routes, token_bytes, max_group_rows)
    max_streamed_rows = max_rows // results if group_size > 1 else min(max_rows, 2 * rows)
    streamed_rows = power_of_two(ceil(routes) * streamed.region_tokens, max_streamed_rows)
    one_step = routes * streamed.region_tokens <= streamed_rows
    return Tiles(
        group_size=group_size,
        stationary_rows=rows,
        regions_per_step=max(1, streamed_rows // streamed.region_tokens),
        streamed_rows=streamed_rows,
        region_fits=streamed.region_tokens <= streamed_rows,
        warps=attention_warps(group_size, rows, streamed_rows, channels, itemsize),
        stages=1 if itemsize == 2 and one_step else 2,
    )


def attention_warps(
    group_size: int, stationary_rows: int, streamed_rows: int, channels: int, itemsize: int
) -> int:
    """Enough warps that tiles stay in registers: two tiles like ``qk`` (and in groups one of
    routed pairs) and two of results, all of four bytes, and three streamed tiles."""
    qk_tiles = 3 if group_size > 1 else 2
    stationary_bytes = 4 * stationary_rows * (qk_tiles * streamed_rows + 2 * channels)
    streamed_bytes = 3 * itemsize * streamed_rows * channels
    threads = (stationary_bytes + streamed_bytes) / (4 * REGISTERS[itemsize])
    return power_of_two(ceil(threads / 32), 8, smallest=1)


def group_tile(
    stationary: Side, streamed: Side, routes: float, token_bytes: int, max_rows: int
) -> tuple[int, int]:
    """The group size and the rows of a tile of several regions that take least time if routes are
    random.

    A larger group reads less, for its regions share what they stream; but more of its ``qk`` is
    of regions that are not routed together.
    """

    def cost(rows: int) -> float:
        group_size = _group_size(stationary, rows)
        unlisted = (1 - min(1, routes / streamed.num_regions)) ** group_size
        list_length = streamed.num_regions * (1 - unlisted)
        groups = ceil(stationary.num_regions / group_size)
        streamed_tokens = groups * list_length * streamed.region_tokens
        return streamed_tokens * (rows * QK_BYTES + 2 * token_bytes)

    choices = [16]
    while choices[-1] < max_rows:
        choices.append(2 * choices[-1])
    best = min(choices, key=cost)
    return _group_size(stationary, best), best


def _group_size(stationary: Side, rows: int) -> int:
    """The regions of a group: as many as fit the rows, and the same number in each group."""
    fitting = min(MAX_GROUP_SIZE, rows // stationary.region_tokens)
    return ceil(stationary.num_regions / ceil(stationary.num_regions / fitting))


def mean_tile(queries: Side, keys: Side, channels: int) -> MeanTile:
    """Some whole regions, or a part of one, and as many of the channels of all heads as then
    fit."""
    fewest, most = MEAN_ROWS
    rows = power_of_two(max(queries.region_tokens, keys.region_tokens), most, smallest=1)
    regions = max(1, fewest // rows)
    return MeanTile(regions, rows, power_of_two(channels, TILE_NUMBERS // (regions * rows)))


def score_tile(k_regions: int) -> ScoreTile | None:
    """All key regions, and as many query regions as then fit; None if the key regions do not."""
    if k_regions > MAX_KEY_REGIONS:
        return None
    columns = power_of_two(k_regions, MAX_KEY_REGIONS)
    rows = min(SCORE_ROWS, TILE_NUMBERS // columns)
    return ScoreTile(rows, columns, power_of_two(TILE_NUMBERS // columns, CHANNEL_STEP))


def power_of_two(number: int, largest: int, smallest: int = 16) -> int:
    """The smallest power of two that is not less than a number, within a range."""
    return min(largest, max(smallest, 1 << (number - 1).bit_length()))
