"""Grid: the arithmetic of regions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest

from bilevel import Grid, ShapeError
from bilevel.grid import fit_regions


@pytest.mark.parametrize(
    ("tokens", "regions", "sizes"),
    [
        (56, 7, (8,) * 7),
        (50, 7, (7, 7, 7, 7, 7, 7, 8)),
        (10, 4, (2, 3, 2, 3)),
        (5, 3, (1, 2, 2)),
        (3, 3, (1, 1, 1)),
        (9, 1, (9,)),
        (1, 1, (1,)),
    ],
)
def test_sizes_of_regions(tokens: int, regions: int, sizes: tuple[int, ...]) -> None:
    grid = Grid((tokens,), regions)
    assert grid.sizes(0) == sizes
    assert grid.region_shape == (max(sizes),)
    assert grid.uniform == (len(set(sizes)) == 1)


def test_sizes_cover_the_axis_and_differ_by_at_most_one() -> None:
    for tokens, regions in combinations_with_replacement(range(39, 0, -1), 2):
        grid = Grid((tokens,), regions)
        sizes = grid.sizes(0)
        assert len(sizes) == regions, grid
        assert sum(sizes) == tokens, grid
        assert 1 <= min(sizes) <= max(sizes) == grid.region_tokens <= min(sizes) + 1, grid


def test_axes_are_counted_apart_and_multiplied() -> None:
    grid = Grid((4, 9, 5), (2, 3, 5))
    assert (grid.ndim, grid.num_regions, grid.region_tokens) == (3, 30, 6)
    assert grid.region_shape == (2, 3, 1)
    assert [(a.tokens, a.regions, a.size) for a in grid.axes] == [(4, 2, 2), (9, 3, 3), (5, 5, 1)]
    assert grid.uniform
    assert not Grid((4, 10, 5), (2, 3, 5)).uniform
    assert str(Grid((4, 6), 2)) == "(2, 2) regions on (4, 6) tokens"


@pytest.mark.parametrize("regions", [2, [2, 2], (2, 2), np.int64(2), np.array([2, 2])], ids=repr)
def test_regions_are_any_integers(regions: Any) -> None:
    """A grid is the same value, with the same hash, however its integers were written."""
    grid = Grid([4, 6], regions)
    assert grid == Grid((4, 6), 2)
    assert hash(grid) == hash(Grid((4, 6), 2))
    assert all(type(s) is int for s in grid.regions)


def test_seven_regions_unless_said_otherwise() -> None:
    assert Grid((14, 21)).regions == (7, 7)


@pytest.mark.parametrize(
    ("spatial", "regions", "message"),
    [
        ((), 1, r"expected spatial to be a positive integer for each spatial axis, got \(\)"),
        ((8, 8), (2,), r"one for each of the 2 spatial axes, got \(2,\)"),
        ((8,), (2, 2), r"one for each of the 1 spatial axes, got \(2, 2\)"),
        ((8, 6), 7, r"1 to n regions .* got regions \(7, 7\) on spatial axes \(8, 6\); lower"),
        ((8, 6), (2, 0), r"regions to be one positive integer, .* got \(2, 0\)"),
        ((8, 6), -1, "regions to be one positive integer, .* got -1"),
        ((0, 6), 1, r"spatial to be a positive integer for each .* got \(0, 6\)"),
        ((8, 8), 2.0, "expected regions to be one positive integer, or .* got 2.0"),
        ((8, 8), (2, 2.5), r"expected regions to be one positive integer, or .* got \(2, 2.5\)"),
        ((8, 8), "7", "expected regions to be one positive integer, or .* got '7'"),
        ((8, 8), True, "expected regions to be one positive integer, or .* got True"),
        ((8, 8), (2, np.True_), "expected regions to be one positive integer"),
        (8, 1, "expected spatial to be a positive integer for each spatial axis, got 8"),
        ((8, 8.0), 1, r"expected spatial to be .*, got \(8, 8.0\)"),
        ((8, 8), None, "expected regions to be one positive integer, or .* got None"),
    ],
)
def test_a_grid_that_cannot_be(spatial: Sequence[int], regions: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Grid(spatial, regions)


def test_a_grid_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Grid((8,), 2).regions = (4,)  # type: ignore[misc]


def test_regions_are_lowered_to_the_tokens_there_are() -> None:
    assert fit_regions((4, 16), 7) == (4, 7)
    assert fit_regions((4, 16), (2, 20)) == (2, 16)
