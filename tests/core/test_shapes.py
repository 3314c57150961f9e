"""Each axis of each argument is free, or tied to others: then another size is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bilevel
from bilevel import Backend, Grid, ShapeError
from bilevel.testing.arrays import from_numpy, home_of

GRID = Grid((6, 5), 2)
N, R, T, M, D, K = 2, GRID.num_regions, GRID.region_tokens, 3, 4, 2
INDEX = np.arange(N * R * K).reshape(N, R, K) % R


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def attend(b: Backend, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return bilevel.attend(q, k, v, mask=mask, backend=b)


def bra(b: Backend, q: Any, k: Any, v: Any, routes: Any) -> Any:
    return bilevel.bra(q, k, v, regions=2, routes=routes, backend=b)


def bra_vjp(b: Backend, q: Any, k: Any, v: Any, routes: Any) -> Any:
    return bilevel.bra_vjp(q, k, v, regions=2, routes=routes, backend=b)


def pullback(b: Backend, d_out: Any) -> Any:
    q = from_numpy(floats(N, 6, 5, M, D), home_of(b))
    return bilevel.bra_vjp(q, q, q, regions=2, topk=K, backend=b)[1](d_out)


ROWS, MAP = (N, R, K * T, M, D), (N, 6, 5, M, D)
OPERATOR = {"q": floats(*MAP), "k": floats(*MAP), "v": floats(*MAP[:-1], 5), "routes": INDEX}
OPERATOR_FREE = {"q": {1, 2}, "v": {4}, "routes": {2}}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, np.ndarray], dict[str, set[int]]]] = {
    "attend": (
        attend,
        {
            "q": floats(N, R, T, M, D),
            "k": floats(*ROWS),
            "v": floats(*ROWS[:-1], 5),
            "mask": np.ones(ROWS[:3], bool),
        },
        {"q": {2}, "v": {4}},
    ),
    "bra": (bra, OPERATOR, OPERATOR_FREE),
    "bra_vjp": (bra_vjp, OPERATOR, OPERATOR_FREE),
    "pullback": (pullback, {"d_out": floats(*MAP)}, {}),
    "partition": (
        lambda b, x: bilevel.partition(x, GRID, backend=b),
        {"x": floats(*MAP)},
        {"x": {0, 3, 4}},
    ),
    "summarize": (
        lambda b, x: bilevel.summarize(x, GRID, backend=b),
        {"x": floats(*MAP)},
        {"x": {0, 3, 4}},
    ),
    "merge": (
        lambda b, x: bilevel.merge(x, GRID, backend=b),
        {"x": floats(N, R, T, M, D)},
        {"x": {0, 3, 4}},
    ),
    "route": (
        lambda b, q_mean, k_mean: bilevel.route(q_mean, k_mean, K, backend=b),
        {"q_mean": floats(N, R, 6), "k_mean": floats(N, R, 6)},
        {"q_mean": {1}, "k_mean": {1}},
    ),
    "gather": (
        lambda b, x, index: bilevel.gather(x, index, backend=b),
        {"x": floats(N, R, T, M, D), "index": INDEX % (R - 1)},  # none is the last
        {"x": {1, 2, 3, 4}, "index": {1, 2}},
    ),
}
"""Functions, arguments that fit each other, and their free axes."""

AXES = [
    pytest.param(name, argument, axis, id=f"{name}-{argument}-{axis}")
    for name, (_, arguments, _) in CALLS.items()
    for argument, x in arguments.items()
    for axis in range(x.ndim)
]


@pytest.mark.parametrize("backend", ["numpy", "torch"], indirect=True)
@pytest.mark.parametrize(("name", "argument", "axis"), AXES)
def test_an_axis_of_another_size(backend: Backend, name: str, argument: str, axis: int) -> None:
    function, arguments, free = CALLS[name]
    x = arguments[argument]
    longer = np.concatenate([x, x.take([0], axis)], axis)
    for changed in (longer, x.take(range(x.shape[axis] - 1), axis)):
        given = {**arguments, argument: changed}
        call = {key: from_numpy(each, home_of(backend)) for key, each in given.items()}
        if axis in free.get(argument, ()):
            function(backend, **call)
        else:
            with pytest.raises(ShapeError):
                function(backend, **call)


@pytest.mark.parametrize("backend", ["numpy", "torch"], indirect=True)
@pytest.mark.parametrize("name", CALLS)
def test_an_axis_more_or_less(backend: Backend, name: str) -> None:
    function, arguments, _ = CALLS[name]
    for argument, x in arguments.items():
        for changed in (x[None], x[..., None], x[0], x[..., 0]):
            given = {**arguments, argument: changed}
            call = {key: from_numpy(each, home_of(backend)) for key, each in given.items()}
            with pytest.raises(ShapeError):
                function(backend, **call)
