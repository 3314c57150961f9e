"""What a backend is: a frozen value that bundles pure functions.

A distribution offers a backend by an entry point of the group ``bilevel.backends`` that names a
:class:`BackendSpec`. The spec imports nothing but the standard library and bilevel, and says where
the :class:`Backend` is; that module may import what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from bilevel.grid import Grid

Array: TypeAlias = Any
"""An array of whichever library the backend works with."""


class Shaped(Protocol):
    """What arrays of all libraries have."""

    @property
    def shape(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=Shaped)
"""One library's arrays: what goes in is what comes out."""


class Routes(NamedTuple):
    """Which key regions each query region attends to, best first."""

    index: Array
    """Key regions, integer ``(N, R, k)``."""
    score: Array | None
    """Routing scores, float32 or float64 ``(N, R, k)``; None where the caller gave the routes."""


Pullback: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
"""From the gradient of an output of ``bra`` to those of q, k and v."""


class Routed(NamedTuple):
    """What follows from the routing: which regions attend to which, and by which factor."""

    index: Array
    """Key regions of each query region, integer ``(N, R, k)``."""
    q_grid: Grid
    """The regions of queries."""
    k_grid: Grid
    """The regions of keys and values."""
    scale: float
    """Factor on the scores before the softmax."""


class Attended(NamedTuple):
    """The result of token attention."""

    out: Array
    """``(N, R, T, M, Dv)``, in the dtype of the input."""
    lse: Array
    """Natural logarithm of the softmax's denominator, float32 or float64 ``(N, R, T, M)``."""


class Problem(NamedTuple):
    """What a call asks of a backend; ``Backend.refuses`` judges it."""

    library: str
    """The library of the arrays by its top-level module, as ``"numpy"`` or ``"torch"``."""
    device: str
    """The kind of device the arrays are on, as ``"cpu"`` or ``"cuda"``."""
    dtype: str
    """``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``; empty for a call without
    floating-point numbers, as ``key_mask``."""
    head_dim: int | None = None
    """For ``bra``, the channels per head of keys or of values, whichever have more."""
    axes: int | None = None
    """For ``bra``, the spatial axes of queries or of keys, whichever have more."""


class Stream(NamedTuple):
    """Where a library queues its work on a device, for another to queue its own there too: then
    each waits for the other, and no host for either."""

    device: int
    """The number of the device."""
    pointer: int
    """The stream's address, as CUDA has it; 0 is the default stream."""
    malloc: Callable[[int, int], int] | None = None
    """From a number of bytes and that of the device to the address of memory that the library has
    for work on this stream, in a graph that it captures too; None if it gives none away."""
    free: Callable[[int, int], None] | None = None
    """Takes back what malloc gave, by its address and the number of the device."""

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version and address, as libraries of CUDA ask of each other's streams."""
        return 0, self.pointer


class Exchange(NamedTuple):
    """How a library shares arrays with others on one device, by DLPack: without a copy."""

    take: Callable[[Array], Array]
    """From an array of another library to one of this."""
    give: Callable[[Array], Array]
    """From an array of this library to one that others may read, for torch without its graph."""
    custom_vjp: Callable[..., Array] | None = None
    """``(function, vjp, *arrays)`` to ``function(*arrays)`` for any number of arrays, with the
    derivatives that ``vjp`` gives: it takes the arrays to the same value and its pullback, as
    ``jax.custom_vjp``. None where the library has no derivatives of its own."""
    stream: Callable[[Array], Stream | None] | None = None
    """The stream on which the library would work on an array now; None where there is none, as on
    a CPU."""
    on: Callable[[Stream], AbstractContextManager[object]] | None = None
    """Within it, the library works on a stream of another, and in its memory if it gives some."""


@dataclass(frozen=True, eq=False, repr=False)
class Backend:
    """The primitives of Bi-Level Routing Attention for one array library.

    All functions are pure: inputs are never written to. Shapes are those of the public function
    of the same name, which has checked them; a backend does not check again.
    """

    name: str
    library: str
    """The library of its arrays by its top-level module."""
    refuses: Callable[[Problem], str | None]
    """None if it takes the problem, else why not, as "takes only float32 arrays on cpu"."""
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
    bra_routes: Callable[..., Routes] | None = None
    """``(q, k, q_grid, k_grid, topk)``: ``summarize`` and ``route`` in one; None composes them."""
    bra: Callable[..., Array] | None = None
    """``(q, k, v, routed)``, the last a :class:`Routed`: all that follows the routing in one; None
    composes the primitives."""
    formulations: Mapping[str, Callable[..., Array]] = field(default_factory=dict)
    """The ways that ``bra`` chooses from, by name: to be tested and measured one by one."""
    vjp: Callable[..., tuple[Array, Callable[..., tuple[Array, ...]]]] | None = None
    """``(function, *arrays)`` to the function's value and its pullback, as ``jax.vjp``: the
    library's own derivatives; None where it has none."""
    bra_vjp: Callable[..., tuple[Array, Pullback]] | None = None
    """Takes what ``bra`` takes, to the output and its pullback, written by hand where ``vjp`` is
    None. Without either, the backend computes no gradients."""
    extent: Callable[[Array], tuple[int, int] | None] = lambda index: None
    """The lowest and the highest of an array of integers, not empty; None where to read them
    would make the host wait for a device, or where a tracer has no values."""
    exchange: Exchange | None = None
    """How it works on arrays of other libraries, and they on its own; None where it does not."""

    def __repr__(self) -> str:
        return f"<Backend {self.name!r} for {self.library}>"


@dataclass(frozen=True)
class BackendSpec:
    """What is known of a backend before anything is imported."""

    name: str
    """What users write as ``backend=``."""
    library: str
    """The array library it works on; its top-level module."""
    requires: str | tuple[str, ...]
    """The distribution that must be installed, for its version; of several, any one."""
    install: str
    """The command that installs it."""
    load: str
    """Where the backend is, as ``"module:attribute"``."""
    priority: int = 0
    """Among backends for one library, the highest that accepts the problem is chosen."""
    devices: tuple[str, ...] = ()
    """The kinds of devices it works on; empty is all. For arrays on others it is not even imported,
    unless asked for by name."""
    modules: tuple[str, ...] = ()
    """What it imports beside the library and may not be there."""
    programs: tuple[str, ...] = ()
    """Programs of which it needs any one, as a compiler; a name after ``$`` is an environment
    variable's, that holds one."""
    caches: tuple[str, ...] = ()
    """Folders in which it may keep what it compiles; "~" is the home folder, and a name after ``$``
    an environment variable."""
