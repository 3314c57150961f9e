"""The rules for the tiles of Triton kernels hold for many shapes; no kernel runs."""

from __future__ import annotations

from itertools import product
from math import ceil, prod

import pytest

from bilevel import Grid
from bilevel_triton.tiles import (
    CHANNEL_STEP,
    MAX_GROUP_SIZE,
    MAX_KEY_REGIONS,
    SCORE_ROWS,
    SMALL_REGION,
    TILE_NUMBERS,
    Side,
    Tiles,
    attention_tiles,
    mean_tile,
    score_tile,
    side,
)

SIDES = [
    side(Grid((56, 56), 7)),
    side(Grid((28, 28), 7)),
    side(Grid((14, 14), 7)),
    side(Grid((50, 61), 7)),
    side(Grid((7, 7), 7)),
    side(Grid((300,), 1)),
    side(Grid((9, 10, 11), (2, 3, 4))),
    side(Grid((2, 3), 1)),
]


def faults(tiles: Tiles, stationary: Side, streamed: Side) -> list[str]:
    """What is wrong with the tiles of a kernel for attention."""
    rows = (tiles.stationary_rows, tiles.streamed_rows)
    step_tokens = tiles.regions_per_step * streamed.region_tokens
    group_tokens = tiles.group_size * stationary.region_tokens
    groups = ceil(stationary.num_regions / tiles.group_size)
    rules = {
        "rows are powers of two": all(16 <= n <= 128 and n & (n - 1) == 0 for n in rows),
        "warps are powers of two": tiles.warps in (1, 2, 4, 8),
        "tiles have regions": tiles.group_size >= 1 and tiles.regions_per_step >= 1,
        "region_fits is true": tiles.region_fits == (streamed.region_tokens <= rows[1]),
        "regions of a step fit": not tiles.region_fits or step_tokens <= rows[1],
    }
    if tiles.group_size > 1:
        rules |= {
            "groups are of small regions": stationary.region_tokens <= SMALL_REGION,
            "groups have a mask": tiles.group_size <= MAX_GROUP_SIZE,
            "groups fit": group_tokens <= rows[0],
            "one tile for each group": tiles.count(stationary) == groups,
        }
    else:
        tokens = stationary.num_regions * stationary.region_tokens
        rules["tiles hold all tokens"] = tiles.count(stationary) * rows[0] >= tokens
    return [rule for rule, holds in rules.items() if not holds]


@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_hold_what_they_should(itemsize: int) -> None:
    for stationary, streamed in product(SIDES, SIDES):
        for channels, results in product((8, 32, 64, 128), (1, 2)):
            for routes in (1, 2.5, streamed.num_regions):
                case = (stationary, streamed, routes, channels, itemsize, results)
                tiles = attention_tiles(*case)
                assert not faults(tiles, stationary, streamed), (case, tiles)


def test_regions_that_share_most_of_their_routes_share_a_tile() -> None:
    stage3 = side(Grid((14, 14), 7))
    assert attention_tiles(stage3, stage3, 16, 32, 2).group_size > 16
    sparse = side(Grid((64, 64), 32))
    assert attention_tiles(sparse, sparse, 1, 32, 2).group_size == 4


def test_tiles_of_means_hold_what_they_should() -> None:
    for queries, keys, channels in product(SIDES, SIDES, (1, 20, 32, 256, 2048)):
        tile, case = mean_tile(queries, keys, channels), (queries, keys, channels)
        assert all(n & (n - 1) == 0 for n in tile), case
        assert 256 <= prod(tile) <= TILE_NUMBERS, case
        region_tokens = max(queries.region_tokens, keys.region_tokens)
        assert tile.regions == 1 or tile.rows >= region_tokens, case
        assert tile.channels >= min(channels, 32), case  # a sector of memory, whole
        assert tile.warps in (1, 2, 4, 8), case


def test_tiles_of_scores_hold_all_key_regions() -> None:
    for k_regions in (1, 16, 49, 64, 65, 256, 400, MAX_KEY_REGIONS):
        tile = score_tile(k_regions)
        assert tile is not None, k_regions
        assert all(n & (n - 1) == 0 for n in tile), k_regions
        assert k_regions <= tile.columns < 2 * max(k_regions, 16), k_regions
        assert tile.rows <= SCORE_ROWS, k_regions
        assert tile.rows * tile.columns <= TILE_NUMBERS, k_regions
        assert 16 <= tile.channels <= CHANNEL_STEP, k_regions
        assert tile.warps in (1, 2, 4, 8), k_regions


def test_more_key_regions_fit_no_tile() -> None:
    assert score_tile(MAX_KEY_REGIONS + 1) is None
