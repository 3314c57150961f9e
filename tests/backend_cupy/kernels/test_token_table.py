"""The table of tokens is right also where tokens times regions do not fit 32 bits."""

from __future__ import annotations

import numpy as np
import pytest

from bilevel.grid import Grid
from bilevel_cupy.block_lists import _token_table
from bilevel_numpy.primitives import real_tokens
from tests.backend_cupy.emulator.emulator import Emulator


@pytest.mark.parametrize(
    ("spatial", "regions"),
    [
        pytest.param((50_000,), (45_000,), id="past 31 bits"),
        pytest.param((70_000,), (65_536,), id="past 32 bits"),
        pytest.param((3, 50_000), (2, 45_000), id="the last of two axes"),
        pytest.param((50_000, 3), (45_000, 2), id="the first of two axes"),
        pytest.param((5, 4, 3), (2, 3, 2), id="small"),
    ],
)
def test_long_axes(spatial: tuple[int, ...], regions: tuple[int, ...]) -> None:
    grid = Grid(spatial, regions)
    table = _token_table(Emulator(), grid)
    token, real = np.zeros((1, 1), np.int64), real_tokens(grid)
    for axis in grid.axes:
        first = np.arange(axis.regions)[:, None] * axis.tokens // axis.regions
        of_axis = first + np.arange(axis.size)
        outer = token[:, None, :, None] * axis.tokens + of_axis[None, :, None, :]
        token = outer.reshape(len(token) * axis.regions, -1)
    np.testing.assert_array_equal(table, np.where(real, token, -1))
