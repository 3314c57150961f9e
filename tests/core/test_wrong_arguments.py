"""What a wrong argument gets: an error that says what was expected, what came and where."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bilevel
from bilevel import (
    ArgumentError,
    ArrayError,
    BackendRefused,
    BackendUnavailable,
    Grid,
    ShapeError,
    registry,
)

GRID = Grid((4, 4), 2)


def tokens(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def bra(q: Any = None, k: Any = None, v: Any = None, **more: Any) -> Any:
    """A call in which everything is right but what the test gives."""
    q, k, v = (tokens(1, 4, 4, 2, 3) if x is None else x for x in (q, k, v))
    return bilevel.bra(q, k, v, **{"topk": 2, "regions": 2, **more})


def test_the_call_that_the_others_vary_is_right() -> None:
    assert bra().shape == (1, 4, 4, 2, 3)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_not_an_array(name: str) -> None:
    with pytest.raises(ArrayError, match=r"expected an array .* numpy.*, got builtins\.list"):
        bra(**{name: [[1.0]]})


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_not_floating_point(dtype: str) -> None:
    with pytest.raises(ArrayError, match=f"expected q to be float16, .*float64, got {dtype}"):
        bra(q=tokens(1, 4, 4, 2, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64", "complex128"])
def test_tensors_that_are_not_floating_point(torch: ModuleType, dtype: str) -> None:
    x = torch.ones(1, 4, 4, 2, 3, dtype=getattr(torch, dtype))
    with pytest.raises(ArrayError, match=f"expected q to be float16, .*, got {dtype}; convert it"):
        bra(x, x, x)
    with pytest.raises(ArrayError, match=f"expected x to be float16, .*, got {dtype}; convert it"):
        bilevel.partition(x, GRID)


@pytest.mark.parametrize("dtype", ["object", "S4", "datetime64[s]", [("a", "f4")]], ids=str)
def test_no_numbers(dtype: Any) -> None:
    with pytest.raises(ArrayError, match=r"expected q to be float16, .* or float64, got"):
        bra(q=np.zeros((1, 4, 4, 2, 3), dtype))


SWAPPED = {"little": ">", "big": "<"}[sys.byteorder]


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_foreign_byte_order(name: str) -> None:
    message = (
        rf"convert it to native byte order: {name}\.astype\({name}\.dtype\.newbyteorder\('='\)"
    )
    x = tokens(1, 4, 4, 2, 3, dtype=f"{SWAPPED}f4")
    with pytest.raises(ArrayError, match=message):
        bra(**{name: x})
    assert bra(**{name: x.astype(x.dtype.newbyteorder("="))}).shape == x.shape


def test_routes_of_foreign_byte_order() -> None:
    message = "got >i8 numpy on cpu; convert it to native byte order: routes"
    with pytest.raises(ArrayError, match=message.replace(">", SWAPPED)):
        bra(routes=np.zeros((1, 4, 1), f"{SWAPPED}i8"))


def test_masked_arrays(torch: ModuleType) -> None:
    """Their masks would be ignored without a word."""
    masked = np.ma.masked_array(tokens(1, 4, 4, 2, 3), mask=False)
    message = r"got numpy\.ma\..*MaskedArray; its mask would be ignored: fill it, or give the plain"
    for name in ("q", "k", "v"):
        with pytest.raises(ArrayError, match=message):
            bra(**{name: masked})
    with pytest.raises(ArrayError, match=message):
        bra(routes=np.ma.masked_array(np.zeros((1, 4, 1), int)))
    assert bra(masked.filled(0)).shape == masked.shape


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")
def test_masked_tensors(torch: ModuleType) -> None:
    plain = torch.ones(1, 4, 4, 2, 3)
    masked = torch.masked.masked_tensor(plain, plain > 0)
    with pytest.raises(ArrayError, match=r"got torch\.masked\..*; its mask would be ignored: fill"):
        bra(plain, plain, masked)
    assert bra(plain, plain, masked.to_tensor(0.0)).shape == plain.shape


@pytest.mark.parametrize("name", ["k", "v"])
def test_dtypes_differ(name: str) -> None:
    message = f"expected {name} to have the dtype of q, float32, got float64; convert"
    with pytest.raises(ArrayError, match=message):
        bra(**{name: tokens(1, 4, 4, 2, 3, dtype=np.float64)})


def test_libraries_differ(torch: ModuleType) -> None:
    with pytest.raises(ArrayError, match="expected v to have the library of q, numpy, got torch"):
        bra(v=torch.ones(1, 4, 4, 2, 3))


def test_devices_differ(torch: ModuleType) -> None:
    q = torch.ones(1, 4, 4, 2, 3)
    with pytest.raises(ArrayError, match="expected k to have the device of q, cpu, got meta"):
        bra(q, q.to("meta"), q)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((4, 2, 3), (4, 2, 3), (4, 2, 3)),  # no axis of images
        ((1, 4, 4, 2, 3), (1, 4, 4, 2, 3), (1, 4, 2, 3)),  # v lacks an axis
        ((1, 4, 4, 2, 3), (1, 4, 4, 2, 3), (1, 4, 5, 2, 3)),  # v has other tokens
        ((1, 4, 4, 2, 3), (2, 4, 4, 2, 3), (2, 4, 4, 2, 3)),  # images
        ((1, 4, 4, 2, 3), (1, 4, 4, 1, 3), (1, 4, 4, 1, 3)),  # heads
        ((1, 4, 4, 2, 3), (1, 4, 4, 2, 5), (1, 4, 4, 2, 5)),  # channels
    ],
)
def test_shapes_that_do_not_fit(q: Any, k: Any, v: Any) -> None:
    with pytest.raises(ShapeError, match=r"expected q \(N, \*spatial, M, D\), .* got") as raised:
        bra(tokens(*q), tokens(*k), tokens(*v))
    for shape in (q, k, v):
        assert str(shape) in str(raised.value)


@pytest.mark.parametrize("axis", [1, 2, 3, 4])
def test_only_n_may_be_empty(axis: int) -> None:
    shape = [1, 4, 4, 2, 3]
    shape[axis] = 0
    x = tokens(*shape)
    with pytest.raises(ShapeError, match="expected no empty axis but N, got q"):
        bra(x, x, x)


def test_more_regions_than_tokens() -> None:
    with pytest.raises(ShapeError, match=r"got regions \(5, 5\) on spatial axes \(4, 4\)"):
        bra(regions=5)
    with pytest.raises(ShapeError, match=r"got regions \(1, 5\) on spatial axes \(4, 4\)"):
        bra(kv_regions=(1, 5))


@pytest.mark.parametrize(
    "topk", [0, -1, 5, 10**30, 2.0, True, np.True_, np.float32(2), None, "2"], ids=repr
)
def test_topk(topk: Any) -> None:
    message = f"expected topk to be an integer from 1 to 4, .* got {re.escape(repr(topk))}"
    with pytest.raises(ShapeError, match=message):
        bra(topk=topk)
    with pytest.raises(ShapeError, match=message):
        bilevel.route(tokens(1, 2, 3), tokens(1, 4, 3), topk)


def test_topk_counts_key_regions() -> None:
    assert bra(topk=4, regions=1, kv_regions=2).shape == (1, 4, 4, 2, 3)
    with pytest.raises(ShapeError, match="from 1 to 1, the number of key regions, got 4"):
        bra(topk=4, regions=2, kv_regions=1)


@pytest.mark.parametrize("integer", [np.int64(2), np.uint8(2), np.array(2)], ids=repr)
def test_topk_is_any_integer(integer: Any) -> None:
    np.testing.assert_array_equal(bra(topk=integer), bra(topk=2))


@pytest.mark.parametrize(
    "scale", [float("nan"), float("inf"), 10**400, True, np.True_, "1", 1j], ids=repr
)
def test_scale(scale: Any) -> None:
    with pytest.raises(ArgumentError, match="expected scale to be a finite number, got"):
        bra(scale=scale)


def test_scale_is_any_real_number() -> None:
    np.testing.assert_array_equal(bra(scale=np.float32(0.5)), bra(scale=0.5))


@pytest.mark.parametrize(
    ("routes", "error", "message"),
    [
        (np.zeros((1, 4, 2)), ArrayError, "routes to be an integer numpy array .* got float64"),
        (np.zeros((1, 4, 2), bool), ArrayError, "routes to be an integer .* got bool"),
        ([[[0]]], ArrayError, "expected an array .* got builtins.list"),
        (np.zeros((4, 2), int), ShapeError, r"of shape \(N=1, R=4, k\), got \(4, 2\)"),
        (np.zeros((1, 3, 2), int), ShapeError, r"\(N=1, R=4, k\), got \(1, 3, 2\)"),
        (np.zeros((2, 4, 2), int), ShapeError, r"\(N=1, R=4, k\), got \(2, 4, 2\)"),
        (np.zeros((1, 4, 0), int), ShapeError, "1 to 4 key regions in each row .* got 0"),
        (np.zeros((1, 4, 5), int), ShapeError, "1 to 4 key regions in each row .* got 5"),
        (np.full((1, 4, 2), 4), ShapeError, "regions from 0 to 3, got values from 4 to 4"),
        (np.full((1, 4, 2), -1), ShapeError, "regions from 0 to 3, got values from -1 to -1"),
    ],
)
def test_routes(routes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bra(routes=routes)


INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_routes_of_any_integers(torch: ModuleType, library: str, backend: str) -> None:
    array = torch.from_numpy if library == "torch" else np.asarray
    x, routes = array(tokens(1, 4, 4, 2, 3)), np.arange(8).reshape(1, 4, 2) % 4
    expected = bra(routes=routes)
    for dtype in INTEGERS:
        got = bra(x, x, x, routes=array(routes.astype(dtype)), backend=backend)
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=dtype)
        outside = array(np.full((1, 4, 2), 100, dtype))
        with pytest.raises(ShapeError, match="regions from 0 to 3, got values from 100 to 100"):
            bra(x, x, x, routes=outside, backend=backend)


def test_tensors_of_any_integers(torch: ModuleType) -> None:
    """In every formulation, and in the primitives."""
    q, k, v = torch.randn(3, 1, 8, 8, 2, 4, dtype=torch.float64).unbind()
    index = torch.arange(32).view(1, 16, 2) % 16
    grid, ragged = Grid((8, 8), 4), Grid((9, 9), 4)
    regions, routed = bilevel.partition(k, grid), bilevel.Routed(index, grid, grid, 0.5)
    for dtype in INTEGERS:
        other = index.to(getattr(torch, dtype))
        for name, function in registry.load("torch").formulations.items():
            got = function(q, k, v, routed._replace(index=other))
            assert torch.equal(got, function(q, k, v, routed)), (dtype, name)
        assert bilevel.gather(regions, other).equal(bilevel.gather(regions, index)), dtype
        assert bilevel.key_mask(other, ragged).equal(bilevel.key_mask(index, ragged)), dtype


def test_routes_of_another_library(torch: ModuleType) -> None:
    routes = torch.zeros(1, 4, 2, dtype=torch.int64)
    with pytest.raises(ArrayError, match=r"expected routes to be an integer numpy .* int64 torch"):
        bra(routes=routes)


def test_topk_is_not_looked_at_where_routes_are_given() -> None:
    assert bra(routes=np.zeros((1, 4, 1), int), topk=99).shape == (1, 4, 4, 2, 3)


@pytest.mark.parametrize("function", [bilevel.partition, bilevel.summarize])
@pytest.mark.parametrize("shape", [(1, 4, 5, 2, 3), (1, 4, 2, 3), (4, 4)])
def test_maps_that_are_not_of_the_grid(function: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, 4, 4, M, D\) for \(2, 2\) reg"):
        function(tokens(*shape), GRID)


@pytest.mark.parametrize("shape", [(1, 4, 5, 2, 3), (1, 5, 4, 2, 3), (1, 4, 4, 2)])
def test_merge(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, R=4, T=4, M, D\) for"):
        bilevel.merge(tokens(*shape), GRID)


@pytest.mark.parametrize(
    ("q_mean", "k_mean"), [((1, 4, 3), (1, 4, 2)), ((1, 4, 3), (2, 4, 3)), ((4, 3), (4, 3))]
)
def test_route(q_mean: tuple[int, ...], k_mean: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"q_mean \(N, R, C\) and k_mean \(N, Rk, C\), got"):
        bilevel.route(tokens(*q_mean), tokens(*k_mean), 1)


def test_gather() -> None:
    index = np.zeros((1, 4, 2), int)
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, Rk, T, M, D\), got \(1, 4, 2"):
        bilevel.gather(tokens(1, 4, 2, 3), index)
    with pytest.raises(ShapeError, match=r"index of shape \(N=2, R, k\), got \(1, 4, 2\)"):
        bilevel.gather(tokens(2, 4, 4, 2, 3), index)
    with pytest.raises(ShapeError, match=r"index to hold regions from 0 to 3, .* from 9 to 9"):
        bilevel.gather(tokens(1, 4, 4, 2, 3), index + 9)


def test_key_mask() -> None:
    with pytest.raises(ShapeError, match=r"index of shape \(N, R, k\), got \(4,\)"):
        bilevel.key_mask(np.zeros(4, int), GRID)
    with pytest.raises(ShapeError, match="index to hold regions from 0 to 3"):
        bilevel.key_mask(np.full((1, 4, 2), 4), GRID)
    with pytest.raises(ArrayError, match=r"index to be an integer numpy array .* got float32"):
        bilevel.key_mask(tokens(1, 4, 2), GRID)


@pytest.mark.parametrize(
    ("k", "v"),
    [
        ((1, 4, 8, 2, 5), (1, 4, 8, 2, 3)),  # channels
        ((1, 4, 8, 2, 3), (1, 4, 7, 2, 3)),  # tokens
        ((1, 3, 8, 2, 3), (1, 3, 8, 2, 3)),  # regions
        ((1, 4, 0, 2, 3), (1, 4, 0, 2, 3)),  # nothing to attend to
    ],
)
def test_attend(k: tuple[int, ...], v: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected q \(N, R, T, M, D\), k \(N, R, L, M, D\) and"):
        bilevel.attend(tokens(1, 4, 4, 2, 3), tokens(*k), tokens(*v))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((1, 4, 7), bool), ShapeError, r"mask of shape \(N, R, L\) = \(1, 4, 8\), got"),
        (np.ones((4, 8), bool), ShapeError, r"mask of shape \(N, R, L\) = \(1, 4, 8\), got"),
        # Elsewhere a mask is added to the scores; silently taken for bool it would be inverted.
        (np.zeros((1, 4, 8)), ArrayError, "mask to be a bool numpy array .* got float64 numpy"),
        (np.ones((1, 4, 8), int), ArrayError, "mask to be a bool numpy array .* got int64"),
        ([[[True]]], ArrayError, "expected an array .* got builtins.list"),
    ],
)
def test_mask(mask: Any, error: type[Exception], message: str) -> None:
    k = tokens(1, 4, 8, 2, 3)
    with pytest.raises(error, match=message):
        bilevel.attend(tokens(1, 4, 4, 2, 3), k, k, mask=mask)


def test_mask_of_another_library(torch: ModuleType) -> None:
    k = tokens(1, 4, 8, 2, 3)
    with pytest.raises(ArrayError, match=r"mask to be a bool numpy array .* got bool torch on cpu"):
        bilevel.attend(tokens(1, 4, 4, 2, 3), k, k, mask=torch.ones(1, 4, 8, dtype=torch.bool))


def test_unknown_backend() -> None:
    names = ", ".join(status.name for status in bilevel.backends())
    with pytest.raises(BackendUnavailable, match=f"backend to be one of {names}, got 'jax'"):
        bra(backend="jax")


def test_a_backend_of_another_library_that_does_not_take_the_arrays(torch: ModuleType) -> None:
    message = "'numpy' takes only float16, float32, float64 numpy arrays on cpu, got bfloat16 torch"
    with pytest.raises(BackendRefused, match=message):
        bra(*[torch.ones(1, 4, 4, 2, 3, dtype=torch.bfloat16)] * 3, backend="numpy")


def test_a_backend_that_exchanges_no_arrays(torch: ModuleType) -> None:
    numpy = registry.load("numpy")
    takes_all = replace(numpy, exchange=None, refuses=lambda problem: None)
    message = "'numpy' exchanges no arrays .* convert the torch arrays to numpy first"
    with pytest.raises(BackendRefused, match=message):
        bra(*[torch.ones(1, 4, 4, 2, 3)] * 3, backend=takes_all)
    with pytest.raises(BackendRefused, match=r"'numpy' takes only .* got float32 torch arrays"):
        bra(*[torch.ones(1, 4, 4, 2, 3)] * 3, backend=replace(numpy, exchange=None))


def test_arrays_on_another_device_are_told_how_to_move(torch: ModuleType) -> None:
    x = torch.ones(1, 4, 4, 2, 3, device="meta")
    message = r"numpy arrays on cpu, got float32 torch arrays on meta; move them: x\.cpu\(\)$"
    with pytest.raises(BackendRefused, match=message):
        bra(x, x, x, backend="numpy")
    with pytest.raises(ArrayError, match="routes to be an integer torch array on meta, got int64"):
        bra(x, x, x, routes=torch.zeros(1, 4, 1, dtype=torch.int64))


def test_the_kinds_of_errors_are_those_of_python() -> None:
    """Whoever catches ValueError, TypeError, ImportError or RuntimeError catches these."""
    assert issubclass(ShapeError, ValueError)
    assert issubclass(ArrayError, TypeError)
    assert issubclass(BackendUnavailable, ImportError)
    assert issubclass(BackendRefused, RuntimeError)
    for error in (ShapeError, ArrayError, BackendUnavailable, BackendRefused):
        assert issubclass(error, bilevel.BilevelError)


@pytest.mark.parametrize("shape", [(2, 8, 8, 16), (2, 4, 64, 16)])
def test_more_regions_than_axes_say_which_axes_a_map_has(shape: tuple[int, ...]) -> None:
    """A map without heads, or with its heads in front, would be taken for a sequence."""
    x = np.zeros(shape)
    with pytest.raises(ShapeError, match=r"the 1 spatial axes of q, .* last two are M and D"):
        bilevel.bra(x, x, x, regions=(2, 2))
