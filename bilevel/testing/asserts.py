"""Comparisons that raise an AssertionError which says how far apart things are, and where."""

from __future__ import annotations

import numpy as np

from bilevel.protocol import Array
from bilevel.testing.arrays import NumpyArray, to_numpy


def expect(holds: bool, message: str) -> None:
    """An assert that ``python -O`` keeps."""
    if not holds:
        raise AssertionError(message)


def assert_shape(what: str, x: Array, shape: tuple[int, ...]) -> None:
    """``x`` has this shape."""
    expect(tuple(x.shape) == shape, f"expected {what} of shape {shape}, got {tuple(x.shape)}")


def assert_close(what: str, got: Array, want: Array, bound: float | NumpyArray) -> None:
    """Every value of ``got`` is within ``bound`` of ``want``; NaN is within no bound."""
    a, b = to_numpy(got), to_numpy(want)
    assert_shape(what, a, b.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
    far = ~(error <= bound)
    if far.any():
        at = tuple(int(i) for i in np.argwhere(far)[0])
        limit = np.broadcast_to(bound, error.shape)[at]
        raise AssertionError(
            f"expected {what} within {limit:.3g} at {at}, got {a[at]!r} for {b[at]!r}, off by "
            f"{error[at]:.3g}; {far.sum()} of {far.size} values are too far"
        )


def assert_same(what: str, got: Array, want: Array) -> None:
    """``got`` and ``want`` are equal bit for bit, NaN included."""
    a, b = to_numpy(got), to_numpy(want)
    assert_shape(what, a, b.shape)
    same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"expected {what} to be the same bits, got {a[at]!r} for {b[at]!r} at {at}; "
            f"{(~same).sum()} of {same.size} values differ"
        )


def assert_best(what: str, index: Array, score: NumpyArray, bound: float) -> None:
    """Each row of ``index (N, R, k)`` holds distinct regions with the highest scores, best first.

    ``score (N, R, Rk)`` is exact, and the backend's own may be off by ``bound``; where scores are
    closer to each other than that, either region may come first.
    """
    chosen = to_numpy(index)
    rows = np.sort(chosen, axis=-1)
    expect(bool((rows[..., 1:] != rows[..., :-1]).all()), f"{what}: a row has a region twice")
    best = -np.sort(-score, axis=-1)[..., : chosen.shape[-1]]
    assert_close(what, np.take_along_axis(score, chosen, axis=-1), best, 2 * bound)
