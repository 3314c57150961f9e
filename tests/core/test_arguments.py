"""One rule for each kind of argument, wherever it is taken: integers of any library are counts;
booleans, floats and strings are not; and the error has one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bilevel
from bilevel import ArgumentError, Grid, ShapeError, arguments
from bilevel.grid import fit_regions

TOKENS = np.ones((1, 4, 4, 2, 3), np.float32)
MEANS = np.ones((1, 4, 3), np.float32)


def bra(**more: Any) -> Any:
    return bilevel.bra(TOKENS, TOKENS, TOKENS, **{"topk": 2, "regions": 2, **more})


def bra_vjp(**more: Any) -> Any:
    return bilevel.bra_vjp(TOKENS, TOKENS, TOKENS, **{"topk": 2, "regions": 2, **more})[0]


# Whatever else takes one of these kinds belongs here too: a call that 1, 2 and 4 suit.
COUNTS: Mapping[str, Callable[[Any], Any]] = {
    "bra topk": lambda n: bra(topk=n),
    "bra_vjp topk": lambda n: bra_vjp(topk=n),
    "route topk": lambda n: bilevel.route(MEANS, MEANS, n),
    "cost topk": lambda n: bilevel.cost((4, 4), 2, topk=n),
    "cost heads": lambda n: bilevel.cost((4, 4), 2, heads=n),
    "cost head_dim": lambda n: bilevel.cost((4, 4), 2, head_dim=n),
    "plan topk": lambda n: bilevel.plan((4, 4), n),
    "count": lambda n: arguments.count("n", n),
}
PER_AXIS: Mapping[str, Callable[[Any], Any]] = {
    "Grid regions": lambda n: Grid((4, 4), n),
    "bra regions": lambda n: bra(regions=n, kv_regions=2),
    "bra kv_regions": lambda n: bra(kv_regions=n, topk=1),
    "bra_vjp regions": lambda n: bra_vjp(regions=n, kv_regions=2),
    "cost regions": lambda n: bilevel.cost((4, 4), n, topk=1),
    "fit_regions": lambda n: fit_regions((4, 4), n),
    "per_axis": lambda n: arguments.per_axis("n", n, 2),
}
AXES: Mapping[str, Callable[[Any], Any]] = {
    "Grid spatial": lambda spatial: Grid(spatial, 1),
    "cost spatial": lambda spatial: bilevel.cost(spatial, 1, topk=1),
    "plan spatial": lambda spatial: bilevel.plan(spatial, 1),
    "axes": lambda spatial: arguments.axes("n", spatial),
}
CHOICES: Mapping[str, Callable[[Any], Any]] = {
    "cost dtype": lambda dtype: bilevel.cost((4, 4), 2, dtype=dtype),
    "choice": lambda value: arguments.choice("n", value, ("float32",)),
}

INTEGERS = st.sampled_from((int, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.array))
NUMBERS = st.sampled_from((1, 2, 4))
NO_COUNTS = (
    st.booleans()
    | st.booleans().map(np.bool_)
    | st.floats()
    | st.floats(width=32).map(np.float32)
    | st.integers(max_value=0)
    | st.integers(-128, 0).map(np.int8)
    | st.text(max_size=3)
    | st.sampled_from((2 + 0j, b"2", np.array(2.0), np.str_("2"), object()))
)
NO_AXES = NO_COUNTS | st.just(()) | st.tuples(NO_COUNTS, st.just(2))


@pytest.mark.parametrize("call", COUNTS.values(), ids=COUNTS)
@given(number=NUMBERS, integer=INTEGERS)
def test_a_count_is_an_integer_of_any_library(
    call: Callable[[Any], Any], number: int, integer: Any
) -> None:
    np.testing.assert_equal(call(integer(number)), call(number))


@pytest.mark.parametrize("call", COUNTS.values(), ids=COUNTS)
@given(value=NO_COUNTS | st.none() | st.just((2,)))
def test_nothing_else_is_a_count(call: Callable[[Any], Any], value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^expected .* got "):
        call(value)


@pytest.mark.parametrize("call", PER_AXIS.values(), ids=PER_AXIS)
@given(numbers=st.tuples(NUMBERS, NUMBERS), integer=INTEGERS)
def test_one_for_each_axis_or_one_for_all(
    call: Callable[[Any], Any], numbers: tuple[int, int], integer: Any
) -> None:
    np.testing.assert_equal(call([integer(n) for n in numbers]), call(numbers))
    np.testing.assert_equal(call(np.array(numbers)), call(numbers))
    np.testing.assert_equal(call(integer(numbers[0])), call((numbers[0],) * 2))


@pytest.mark.parametrize("call", PER_AXIS.values(), ids=PER_AXIS)
@given(value=NO_AXES | st.sampled_from(((2,), (2, 2, 2))))
def test_nothing_else_is_one_for_each_axis(call: Callable[[Any], Any], value: object) -> None:
    with pytest.raises(ShapeError, match=r"^expected .* got "):
        call(value)


@pytest.mark.parametrize("call", AXES.values(), ids=AXES)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=3), integer=INTEGERS)
def test_axes_are_integers_of_any_library(
    call: Callable[[Any], Any], numbers: list[int], integer: Any
) -> None:
    np.testing.assert_equal(call([integer(n) for n in numbers]), call(tuple(numbers)))
    np.testing.assert_equal(call(np.array(numbers)), call(tuple(numbers)))


@pytest.mark.parametrize("call", AXES.values(), ids=AXES)
@given(value=NO_AXES | st.integers() | st.none())
def test_nothing_else_is_axes(call: Callable[[Any], Any], value: object) -> None:
    with pytest.raises(ShapeError, match=r"^expected .* got "):
        call(value)


@pytest.mark.parametrize("call", CHOICES.values(), ids=CHOICES)
@given(value=NO_AXES | st.lists(st.text(max_size=3)))
def test_a_choice_is_one_of_its_options(call: Callable[[Any], Any], value: object) -> None:
    call("float32")
    with pytest.raises(ArgumentError, match=r"^expected .* to be one of .*'float32'.*, got "):
        call(value)
