"""One rule for each kind of argument, for functions, layers and configs.

Each rule returns the argument as its own type, or raises an error that says what was expected and
what came. Integers of any library are taken, such as NumPy's; True and False are not numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import inf, nan
from numbers import Real
from operator import index as as_index
from typing import Any, TypeVar

from bilevel.errors import ArgumentError, ShapeError

T = TypeVar("T")


def count(
    name: str,
    value: object,
    least: int = 1,
    most: float = inf,
    because: str = "",
    error: type[ArgumentError] = ArgumentError,
) -> int:
    """An integer from ``least`` to ``most``; ``because`` says where the bounds come from.

    Raises ``error`` if it is none.
    """
    found = _as_int(value)
    if found is None or not least <= found <= most:
        reason = because and f", {because}"
        raise error(
            f"expected {name} to be an integer {_bounds(least, most)}{reason}, got {value!r}"
        )
    return found


def axes(name: str, value: object) -> tuple[int, ...]:
    """A positive integer for each spatial axis, of which there is at least one.

    The sizes of an array that torch traces stay symbolic: what is traced then serves other sizes.

    Raises ShapeError if it is anything else.
    """
    found = _positive(value, _as_size)
    if not found:
        raise ShapeError(
            f"expected {name} to be a positive integer for each spatial axis, got {value!r}"
        )
    return found


def per_axis(name: str, value: object, ndim: int) -> tuple[int, ...]:
    """A positive integer for each of ``ndim`` spatial axes; a single one stands for all.

    Raises ShapeError if it is anything else.
    """
    # torch.compile up to torch 2.9 fails on a tuple that is asked for an integer.
    single = None if isinstance(value, (tuple, list)) else _as_int(value)
    found = _positive(value if single is None else (single,) * ndim, _as_int)
    if len(found) != ndim:
        raise ShapeError(
            f"expected {name} to be one positive integer, or one for each of the {ndim} spatial "
            f"axes, got {value!r}"
        )
    return found


def choice(name: str, value: T, options: Sequence[T]) -> T:
    """One of some options."""
    if value not in options:
        raise ArgumentError(
            f"expected {name} to be one of {', '.join(map(repr, options))}, got {value!r}"
        )
    return value


def number(name: str, value: object, least: float = -inf, most: float = inf) -> float:
    """A finite number from ``least`` to ``most``."""
    found = _as_float(value)
    if not (least <= found <= most and abs(found) < inf):  # torch.compile knows no isfinite
        kind = "a finite number" if least == -inf else f"a number {_bounds(least, most)}"
        raise ArgumentError(f"expected {name} to be {kind}, got {value!r}")
    return found


def _bounds(least: float, most: float) -> str:
    return f"of at least {least}" if most == inf else f"from {least} to {most}"


def _positive(values: Any, as_integer: Callable[[object], int | None]) -> tuple[int, ...]:
    """Integers from 1 on; empty if anything else is among them."""
    if isinstance(values, bytes):  # whose entries are integers
        return ()
    try:
        found = [as_integer(n) for n in values]
    except TypeError:  # it has no entries
        return ()
    return tuple(n for n in found if n) if all(n and n >= 1 for n in found) else ()


def _as_int(value: object) -> int | None:
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's too: before 2.3 it passes for 1
        return None
    try:
        return as_index(value)  # type: ignore[arg-type] # what is no integer raises
    except TypeError:
        return None


def _as_size(value: Any) -> int | None:
    """As :func:`_as_int`, but what stands for an integer in a trace of torch stays what it is."""
    traced = (isinstance(value, int) and not isinstance(value, bool)) or _stands_for_size(value)
    return value if traced else _as_int(value)


def _stands_for_size(value: Any) -> bool:
    """Whether torch.export made it of a size, or torch.jit.trace, which makes a tensor of each."""
    kind = type(value)
    if kind.__module__ != "torch":
        return False
    return kind.__name__ == "SymInt" or (
        kind.__name__ == "Tensor" and sys.modules["torch"].jit.is_tracing()
    )


def _as_float(value: object) -> float:
    """NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond any float
        return nan
