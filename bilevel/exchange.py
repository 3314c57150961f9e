"""Backends of one library at work on the arrays of another, by DLPack: on one device, no copy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NoReturn

from bilevel import compose, registry
from bilevel.errors import BackendRefused
from bilevel.protocol import Array, Backend, Exchange, Problem, Pullback, Routed


def resolve(problem: Problem, backend: str | Backend | None = None) -> Backend:
    """The backend that computes a call: the one asked for, else the best of the arrays' library.

    One of another library comes as a backend for the library of the arrays.

    Raises
    ------
    BackendUnavailable
        If the backend asked for does not exist or does not import.
    BackendRefused
        If the backend asked for, or every backend of the arrays' library, refuses the problem.
    """
    chosen = registry.choose(problem, backend)
    if chosen.library == problem.library:
        return chosen
    return adapted(chosen, registry.choose(problem))


@lru_cache(maxsize=64)
def adapted(foreign: Backend, home: Backend) -> Backend:
    """``foreign`` as a backend for arrays of ``home``'s library: every result comes back there.

    Gradients of our library flow through ``bra``, by the pullback of ``foreign``; the primitives
    refuse arrays that need them.
    """
    if foreign.exchange is None or home.exchange is None:
        lacks = foreign if foreign.exchange is None else home
        raise BackendRefused(
            f"backend {lacks.name!r} exchanges no arrays with other libraries; convert "
            f"the {home.library} arrays to {foreign.library} first"
        )
    crossing = Crossing(foreign, home, foreign.exchange, home.exchange)
    return Backend(
        name=foreign.name,
        library=foreign.library,
        refuses=foreign.refuses,
        partition=partial(crossing.primitive, foreign.partition),
        merge=partial(crossing.primitive, foreign.merge),
        summarize=partial(crossing.primitive, foreign.summarize),
        route=partial(crossing.there_and_back, foreign.route),
        gather=partial(crossing.primitive, foreign.gather),
        key_mask=partial(crossing.there_and_back, foreign.key_mask),
        attend=partial(crossing.primitive, foreign.attend),
        bra_routes=partial(crossing.there_and_back, partial(compose.bra_routes, foreign)),
        bra=crossing.bra,
        bra_vjp=crossing.bra_vjp,
        extent=home.extent,
    )


@dataclass(frozen=True)
class Crossing:
    """The way from our library to a foreign one, and back."""

    foreign: Backend
    home: Backend
    theirs: Exchange
    ours: Exchange

    def there_and_back(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function of the foreign library on ours: without gradients."""
        with self.in_order(*arguments):
            return self.outward(function(*map(self.inward, arguments)))

    def primitive(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The same, for arrays that need no gradients; others are refused."""

        def compute(*arrays: Array) -> Any:
            rest = iter(arrays)
            filled = (next(rest) if _is_array(x) else x for x in arguments)
            return self.there_and_back(function, *filled)

        return self.differentiable(compute, self.refuse, *filter(_is_array, arguments))

    def bra(self, q: Array, k: Array, v: Array, routed: Routed) -> Array:
        function = partial(compose.bra, self.foreign)
        return self.differentiable(
            lambda *arrays: self.there_and_back(function, *arrays, routed),
            lambda *arrays: self.bra_vjp(*arrays, routed),
            *(q, k, v),
        )

    def bra_vjp(self, *arguments: Any) -> tuple[Array, Pullback]:
        with self.in_order(*arguments):
            out, pullback = compose.bra_vjp(self.foreign, *map(self.inward, arguments))
            return self.outward(out), partial(self.there_and_back, lambda d: tuple(pullback(d)))

    def differentiable(
        self, function: Callable[..., Any], vjp: Callable[..., Any], *arrays: Array
    ) -> Any:
        """``function``, with the derivatives that ``vjp`` gives, where our library has any."""
        if self.ours.custom_vjp is None:
            return function(*arrays)
        return self.ours.custom_vjp(function, vjp, *arrays)

    def refuse(self, *_: Any) -> NoReturn:
        raise BackendRefused(
            f"backend {self.foreign.name!r} passes gradients on to another library through bra "
            "alone; detach the arrays, or let a backend of their own library compute the primitives"
        )

    def inward(self, x: Any) -> Any:
        """An array to the foreign library, and those within a tuple; anything else as it is."""
        if isinstance(x, tuple):
            return _rebuilt(x, map(self.inward, x))
        if not _is_array(x):
            return x
        try:
            return self.theirs.take(self.ours.give(x))
        except Exception as error:
            raise BackendRefused(
                f"backend {self.foreign.name!r} cannot read this {self.home.library} array "
                f"({error}); convert it to {self.foreign.library}, or use a backend for "
                f"{self.home.library}"
            ) from error

    def outward(self, x: Any) -> Any:
        """The inverse of :meth:`inward`."""
        if isinstance(x, tuple):
            return _rebuilt(x, map(self.outward, x))
        return self.ours.take(self.theirs.give(x)) if _is_array(x) else x

    def in_order(self, *arguments: Any) -> AbstractContextManager[object]:
        """Within it, work of the foreign library comes after what ours has queued up to now, and
        before what it queues then: on one device both work on our stream."""
        if self.theirs.on is None or self.ours.stream is None:
            return nullcontext()
        stream = next((self.ours.stream(x) for x in arguments if _is_array(x)), None)
        return nullcontext() if stream is None else self.theirs.on(stream)


def _rebuilt(like: tuple[Any, ...], parts: Any) -> tuple[Any, ...]:
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def _is_array(x: Any) -> bool:
    return hasattr(x, "__dlpack__")
