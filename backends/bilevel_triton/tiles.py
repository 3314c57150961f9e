"""How the tokens of a call are dealt to the tiles of kernels: a plain rule from the shape."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from bilevel.grid import Grid

SMALL = 8
"""Regions of at most so many tokens share a tile with their neighbours."""

WIDEST = {2: 64, 4: 32}
"""Channels of a head, at most, of regions that do; by the bytes of a number."""

LARGEST_GROUP = 32
"""Regions that share a tile, at most: each has a bit of 32."""

REGISTERS = {2: 120, 4: 92}
"""What a thread may need of them by :func:`warps`, by the bytes of a number; beyond, some kernels
spill: found by compiling them."""

SCORE_BYTES = 1.4
"""A score takes about the time of so many bytes of keys and values: by the rates of an H200's data
sheet, and not measured."""

NUMBERS = 4096
"""Of a tile of tokens that are averaged, or of scores that routes are chosen by, at most."""

LANES = (16, 128)
"""Tokens that are averaged together, at least and at most."""

ROWS = 16
"""Query regions whose routes one program chooses, at most."""

STEP = 32
"""Channels of means that are multiplied together, at most; means are padded to a multiple."""

MOST_REGIONS = 1024
"""Key regions whose scores fit a tile."""

MOST_ROUTES = 64
"""Routes of a query region that are chosen one after the other, at most."""


class Side(NamedTuple):
    """The tokens of queries or of keys, on three axes: one of fewer has axes of one in front."""

    sizes: tuple[int, int, int]
    split: tuple[int, int, int]
    regions: int
    tokens: int
    """T, of the largest region."""
    uniform: bool


class Tiles(NamedTuple):
    """The shapes of the tiles of one kernel."""

    group: int
    """Regions of a tile that is kept."""
    kept_lanes: int
    """Its lanes."""
    per: int
    """Regions of a tile that is walked over."""
    walked_lanes: int
    """Its lanes."""
    whole: bool
    """Whether a region of the walked side fits a tile."""
    warps: int
    stages: int
    """Tiles that are on their way while one is computed with."""

    def count(self, side: Side) -> int:
        """Tiles that are kept, of one image."""
        if self.group > 1:
            return ceil(side.regions / self.group)
        return side.regions * ceil(side.tokens / self.kept_lanes)


class MeanTile(NamedTuple):
    """The shape of the tiles of tokens that are averaged."""

    group: int
    """Regions."""
    lanes: int
    """Tokens of each that are read together."""
    block: int
    """Channels."""

    @property
    def warps(self) -> int:
        """16 numbers for each thread: more, and addresses of odd channels would spill."""
        return fitting(self.group * self.lanes * self.block // 512, 8, smallest=1)


class ScoreTile(NamedTuple):
    """The shape of the tiles of scores that routes are chosen by."""

    rows: int
    """Query regions."""
    columns: int
    """Lanes for all key regions."""
    step: int
    """Channels that are multiplied together."""

    @property
    def warps(self) -> int:
        """Eight scores for each thread, or 16: they are ranked by 64 bits."""
        return fitting(self.rows * self.columns // 256, 8, smallest=1)


def side(grid: Grid) -> Side:
    """A grid of one to three axes."""
    return Side(
        sizes=_three(grid.spatial),
        split=_three(grid.regions),
        regions=grid.num_regions,
        tokens=grid.region_tokens,
        uniform=grid.uniform,
    )


def _three(axes: tuple[int, ...]) -> tuple[int, int, int]:
    first, second, third = (*(1,) * (3 - len(axes)), *axes)
    return first, second, third


def tiles(
    kept: Side, walked: Side, routes: float, channels: int, itemsize: int, results: int = 1
) -> Tiles:
    """The tiles of a kernel, whose programs keep tokens of one side and walk over the other's.

    ``routes`` is how many regions one of the kept side's is routed together with on average,
    ``channels`` how many the wider of keys and values has, and ``results`` how many arrays the
    kernel computes.
    """
    largest = (64 if channels * results <= 64 else 32) // (itemsize // 2)
    group, lanes = 1, fitting(kept.tokens, largest)
    if kept.tokens <= SMALL and channels <= WIDEST[itemsize]:
        wide = 2 * largest if itemsize * results == 2 else largest
        group, lanes = grouped(kept, walked, routes, channels * itemsize, wide)
    widest = largest // results if group > 1 else min(largest, 2 * lanes)
    walked_lanes = fitting(ceil(routes) * walked.tokens, widest)
    return Tiles(
        group=group,
        kept_lanes=lanes,
        per=max(1, walked_lanes // walked.tokens),
        walked_lanes=walked_lanes,
        whole=walked.tokens <= walked_lanes,
        warps=warps(group, lanes, walked_lanes, channels, itemsize),
        stages=1 if itemsize == 2 and routes * walked.tokens <= walked_lanes else 2,
    )


def warps(group: int, kept_lanes: int, walked_lanes: int, channels: int, itemsize: int) -> int:
    """Enough that tiles stay in registers: two of scores (and one of pairs, in groups) and two of
    results, all of four bytes, and three of what is walked over."""
    scores = 3 if group > 1 else 2
    kept = 4 * kept_lanes * (scores * walked_lanes + 2 * channels)
    walked = 3 * itemsize * walked_lanes * channels
    threads = (kept + walked) / (4 * REGISTERS[itemsize])
    return fitting(ceil(threads / 32), 8, smallest=1)


def grouped(
    kept: Side, walked: Side, routes: float, row_bytes: int, largest: int
) -> tuple[int, int]:
    """The regions of a group and the lanes of its tile that take least time, if routes were drawn
    at random.

    A larger group reads less, for its regions share what they walk over; but its tile has scores of
    more regions that are not routed together.
    """

    def cost(block: int) -> float:
        group = _group(kept, block)
        union = walked.regions * (1 - (1 - min(1, routes / walked.regions)) ** group)
        walked_rows = ceil(kept.regions / group) * union * walked.tokens
        return walked_rows * (block * SCORE_BYTES + 2 * row_bytes)

    blocks = [16]
    while blocks[-1] < largest:
        blocks.append(2 * blocks[-1])
    best = min(blocks, key=cost)
    return _group(kept, best), best


def _group(kept: Side, block: int) -> int:
    """As many regions as fit, dealt evenly."""
    most = min(LARGEST_GROUP, block // kept.tokens)
    return ceil(kept.regions / ceil(kept.regions / most))


def mean_tile(queries: Side, keys: Side, channels: int) -> MeanTile:
    """Some whole regions, or a part of one, and as many channels of all heads as then fit."""
    fewest, most = LANES
    lanes = fitting(max(queries.tokens, keys.tokens), most, smallest=1)
    group = max(1, fewest // lanes)
    return MeanTile(group, lanes, block=fitting(channels, NUMBERS // (group * lanes)))


def score_tile(k_regions: int) -> ScoreTile | None:
    """All key regions, and as many query regions as then fit; None if the key regions do not."""
    if k_regions > MOST_REGIONS:
        return None
    columns = fitting(k_regions, MOST_REGIONS)
    rows = min(ROWS, NUMBERS // columns)
    return ScoreTile(rows, columns, step=fitting(NUMBERS // columns, STEP))


def fitting(lanes: int, largest: int, smallest: int = 16) -> int:
    """The smallest power of two that has so many lanes, of those in the range."""
    return min(largest, max(smallest, 1 << (lanes - 1).bit_length()))
