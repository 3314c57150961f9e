"""What a backend is: a frozen value that bundles pure functions.

A distribution offers a backend by an entry point of the group ``bilevel.backends`` that names a
:class:`BackendSpec`. The spec imports nothing but the standard library and bilevel, and says where
the :class:`Backend` is; that module may import what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""An array of whichever library the backend works with."""


class Routes(NamedTuple):
    """Which key regions each query region attends to, best first."""

    index: Array
    """Key regions, integer ``(N, R, k)``."""
    score: Array | None
    """Routing scores, float32 or float64 ``(N, R, k)``; None where the caller gave the routes."""


Pullback: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
"""From the gradient of an output of ``bra`` to those of q, k and v."""


class Attended(NamedTuple):
    """The result of token attention."""

    out: Array
    """``(N, R, T, M, Dv)``, in the dtype of the input."""
    lse: Array
    """Natural logarithm of the softmax's denominator, float32 or float64 ``(N, R, T, M)``."""


@dataclass(frozen=True)
class Problem:
    """What a call asks of a backend; ``Backend.refuses`` judges it."""

    library: str
    """The library of the arrays by its top-level module, as ``"numpy"`` or ``"torch"``."""
    device: str
    """The kind of device the arrays are on, as ``"cpu"`` or ``"cuda"``."""
    dtype: str
    """``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``."""


@dataclass(frozen=True)
class Backend:
    """The primitives of Bi-Level Routing Attention for one array library.

    All functions are pure: inputs are never written to. Shapes are those of the public function
    of the same name, which has checked them; a backend does not check again.
    """

    name: str
    refuses: Callable[[Problem], str | None]
    """None if the backend takes the problem, else the reason, to follow "it takes only"."""
    partition: Callable[..., Array]
    """``(x, grid)``"""
    merge: Callable[..., Array]
    """``(x, grid)``"""
    summarize: Callable[..., Array]
    """``(x, grid)``"""
    route: Callable[..., Routes]
    """``(q_mean, k_mean, topk)``"""
    gather: Callable[..., Array]
    """``(x, index)``"""
    key_mask: Callable[..., Array]
    """``(index, grid)``"""
    attend: Callable[..., Attended]
    """``(q, k, v, mask, scale)``"""
    vjp: Callable[..., tuple[Array, Callable[..., tuple[Array, ...]]]] | None = None
    """``(function, *arrays)`` to the function's value and its pullback, as ``jax.vjp``: the
    library's own derivatives; None where it has none."""
    bra_vjp: Callable[..., tuple[Array, Pullback]] | None = None
    """``(q, k, v, index, q_grid, k_grid, scale)`` to the output and its pullback, written by hand
    where ``vjp`` is None. Without either, the backend computes no gradients."""


@dataclass(frozen=True)
class BackendSpec:
    """What is known of a backend before anything is imported."""

    name: str
    """What users write as ``backend=``."""
    library: str
    """The array library it works on; its top-level module."""
    requires: str
    """The distribution that must be installed, for its version."""
    install: str
    """The command that installs it."""
    load: str
    """Where the backend is, as ``"module:attribute"``."""
    priority: int = 0
    """Among backends for one library, the highest that accepts the problem is chosen."""
