"""The CUDA kernels write all of their results, touch no memory beside their arrays, and compute the
same bits in whichever order threads run. The emulator watches over what they write."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from bilevel import Routed
from bilevel.grid import Grid
from bilevel_cupy import fused, gathered
from bilevel_numpy.pullbacks import bra_vjp
from tests.backend_cupy.emulator.emulator import Emulator

Array = np.ndarray[Any, Any]

MARGIN = 4096
"""Numbers on either side of an input."""

NEAR = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
"""Relative errors; the gradients of ``float16`` have seen several roundings."""


class Shape(NamedTuple):
    spatial: tuple[int, ...]
    regions: tuple[int, ...]
    kv_spatial: tuple[int, ...]
    kv_regions: tuple[int, ...]
    topk: int
    head_dim: int = 16
    value_dim: int = 16
    heads: int = 1
    batch: int = 1

    @property
    def grids(self) -> tuple[Grid, Grid]:
        return Grid(self.spatial, self.regions), Grid(self.kv_spatial, self.kv_regions)


SHAPES = [
    pytest.param(Shape((9, 9), (2, 2), (9, 9), (2, 2), 2), id="ragged, sizes differ on both axes"),
    pytest.param(Shape((7, 5), (7, 5), (7, 5), (7, 5), 3), id="one token in each region"),
    pytest.param(Shape((7, 9), (3, 4), (7, 9), (3, 4), 5), id="small ragged regions"),
    pytest.param(Shape((40, 5), (2, 1), (40, 5), (2, 1), 1), id="regions in parts"),
    pytest.param(Shape((2, 2, 3, 5), (1, 2, 2, 2), (9,), (4,), 3), id="four axes, and one"),
    pytest.param(Shape((29,), (5,), (6, 7), (2, 3), 4, 20, 24), id="odd channels, other keys"),
    pytest.param(Shape((8, 8), (2, 2), (8, 8), (2, 2), 2, 8, 8, 2, 2), id="images and heads"),
    pytest.param(Shape((20,), (2,), (30,), (2,), 2, 128, 100), id="widest heads"),
    pytest.param(Shape((20,), (5,), (20,), (5,), 2, 128, 128), id="widest heads, in groups"),
]


def amid_nan(x: Array, apart: int, offset: int = 0) -> Array:
    """A copy with NaN on either side, and ``apart`` numbers of it between its rows."""
    *shape, channels = x.shape
    begin = MARGIN + offset
    buffer = np.full(2 * begin + prod(shape) * (channels + apart), np.nan, x.dtype)
    inside = buffer[begin : len(buffer) - begin].reshape(*shape, channels + apart)[..., :channels]
    inside[...] = x
    return inside


def arrays(shape: Shape, dtype: Any) -> tuple[Array, ...]:
    """q, k, v, d_out and distinct routes."""
    rng = np.random.default_rng(0)
    n, m = shape.batch, shape.heads
    floats = (
        rng.standard_normal((n, *spatial, m, channels)).astype(dtype)
        for spatial, channels in (
            (shape.spatial, shape.head_dim),
            (shape.kv_spatial, shape.head_dim),
            (shape.kv_spatial, shape.value_dim),
            (shape.spatial, shape.value_dim),
        )
    )
    order = rng.random((n, prod(shape.regions), prod(shape.kv_regions))).argsort(-1)
    return (*floats, order[..., : shape.topk])


def run(xp: Emulator, shape: Shape, *inputs: Array) -> tuple[Array, ...]:
    """The output and the gradients, by the kernels."""
    q, k, v, d_out, index = inputs
    scale = shape.head_dim**-0.5
    out, pullback = fused.bra_vjp(xp, q, k, v, Routed(index, *shape.grids, scale))
    return (out, *pullback(d_out))


def assert_right(found: tuple[Array, ...], shape: Shape, *inputs: Array) -> None:
    """By NumPy in float64."""
    *floats, index = inputs
    q, k, v, d_out = (x.astype(np.float64) for x in floats)
    out, pullback = bra_vjp(q, k, v, Routed(index, *shape.grids, shape.head_dim**-0.5))
    for got, want in zip(found, (out, *pullback(d_out)), strict=True):
        error = np.linalg.norm(got.astype(np.float64) - want)
        assert error <= NEAR[str(got.dtype)] * np.linalg.norm(want)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_stay_within_their_arrays(shape: Shape, dtype: Any) -> None:
    *floats, index = arrays(shape, dtype)
    vectors = 16 // np.dtype(dtype).itemsize
    for apart, offset in ((3, 0), (vectors, 0), (vectors, 1)):
        moved = (amid_nan(x, apart, offset) for x in floats)
        found = run(Emulator(), shape, *moved, index)
        assert_right(found, shape, *floats, index)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_threads_does_not_matter(shape: Shape, dtype: Any) -> None:
    inputs = arrays(shape, dtype)
    first, *others = (run(Emulator(order), shape, *inputs) for order in ("forward", "backward", 7))
    for found in others:
        for got, want in zip(found, first, strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("routed", [3, 49])
def test_the_order_of_threads_does_not_matter_to_nan(routed: int, dtype: Any) -> None:
    shape = Shape((14, 14), (7, 7), (14, 14), (7, 7), 49)
    *floats, index = arrays(shape, dtype)
    index[..., routed:] = -1
    for i, x in enumerate(floats):
        x[0, 3 * i, 5], x[0, 7, 4 * i], x[0, i, i] = np.nan, np.inf, -np.inf
    first, *others = (
        run(Emulator(order), shape, *floats, index) for order in ("forward", "backward", 7, 8)
    )
    for found in others:
        for got, want in zip(found, first, strict=True):
            assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape((200,), (10,), (170,), (5,), 1), id="regions in parts"),
        pytest.param(Shape((36,), (12,), (36,), (12,), 1), id="groups"),
        pytest.param(Shape((24,), (24,), (33,), (3,), 1), id="groups stream regions"),
    ],
)
def test_all_may_choose_one_region(shape: Shape) -> None:
    *floats, index = arrays(shape, np.float32)
    index[:] = 1
    found = run(Emulator(), shape, *(amid_nan(x, 3) for x in floats), index)
    assert_right(found, shape, *floats, index)
    region = slice(*(i * shape.kv_spatial[0] // shape.kv_regions[0] for i in (1, 2)))
    for gradient in found[2:]:
        assert gradient[:, region].any()
        gradient[:, region] = 0
        assert not gradient.any()


@pytest.mark.parametrize("regions", [(2,), (12,)], ids=["regions", "groups"])
def test_routes_to_nowhere_are_passed_by(regions: tuple[int, ...]) -> None:
    # Among arrays on a GPU routes are not looked at before; those here would end in a fault.
    shape = Shape((24,), regions, (24,), regions, 1)
    *floats, index = arrays(shape, np.float32)
    nowhere = np.array([-1, -(2**31), regions[0], 2**31 - 1])
    routes = np.concatenate((np.broadcast_to(nowhere, (*index.shape[:2], 4)), index), axis=-1)
    found = run(Emulator(), shape, *(amid_nan(x, 3) for x in floats), routes)
    assert_right(found, shape, *floats, index)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_routes_of_any_integers(dtype: Any) -> None:
    shape = Shape((16,), (1,), (300,), (300,), 3)
    *floats, _ = arrays(shape, np.float32)
    index = np.array([[[3, 7, 255]]])
    assert_right(run(Emulator(), shape, *floats, index.astype(dtype)), shape, *floats, index)


def test_padding_carries_no_nan_from_infinite_keys() -> None:
    shape = Shape((10,), (1,), (10,), (1,), 1)
    q, k, v, d_out, index = arrays(shape, np.float32)
    q, k[0, 3, 0, 0] = np.abs(q), -np.inf  # a weight of zero
    _, _, d_k, d_v = run(Emulator(), shape, q, k, v, d_out, index)
    assert np.isfinite(d_k).all()
    assert np.isfinite(d_v).all()


def test_what_kernels_do_not_take_is_gathered() -> None:
    shape = Shape((4,), (2,), (4,), (2,), 1, 136, 8)
    inputs = arrays(shape, np.float64)

    class Uncompiled(Emulator):
        def RawModule(self, **_: Any) -> Any:  # noqa: N802 # as in CuPy
            raise AssertionError("a kernel was asked for")

    assert_right(run(Uncompiled(), shape, *inputs), shape, *inputs)


@pytest.mark.parametrize(
    ("spatial", "regions", "topk"),
    [
        pytest.param((2**31,), (2**10,), 1, id="tokens"),
        pytest.param((647,) * 3, (646,) * 3, 1, id="positions, each region padded eightfold"),
        pytest.param((2**16,), (2**16,), 2**15, id="routes"),
    ],
)
def test_what_32_bits_do_not_count_is_gathered(
    spatial: tuple[int, ...],
    regions: tuple[int, ...],
    topk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = Grid(spatial, regions)
    x = np.broadcast_to(np.float32(0), (1, *spatial, 1, 1))
    index = np.broadcast_to(np.int32(0), (1, grid.num_regions, topk))
    monkeypatch.setattr(gathered, "bra_vjp", lambda *_: ("gathered", None))
    assert fused.bra(Emulator(), x, x, x, Routed(index, grid, grid, 1.0)) == "gathered"
