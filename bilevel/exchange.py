"""Backends of one library at work on the arrays of another, by DLPack: on one device, no copy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bilevel import compose, registry
from bilevel.errors import BackendRefused
from bilevel.protocol import Array, Backend, Exchange, Problem, Pullback


def resolve(problem: Problem, backend: str | Backend | None = None) -> Backend:
    """The backend for a problem, as :func:`bilevel.registry.resolve`; one of another library comes
    as a backend for the library of the arrays."""
    chosen = registry.resolve(problem, backend)
    if chosen.library == problem.library:
        return chosen
    home = registry.resolve(problem)
    if chosen.exchange is None or home.exchange is None:
        lacks = chosen if chosen.exchange is None else home
        raise BackendRefused(
            f"backend {lacks.name!r} exchanges no arrays with other libraries; convert "
            f"the {problem.library} arrays to {chosen.library} first"
        )
    return adapted(chosen, home, chosen.exchange, home.exchange)


def adapted(foreign: Backend, home: Backend, theirs: Exchange, ours: Exchange) -> Backend:
    """``foreign`` as a backend for arrays of ``home``'s library: every result comes back there.

    Gradients of our library flow through ``bra``, by the pullback of ``foreign``; the primitives
    refuse arrays that need them.
    """

    inward, outward = _crossing(foreign, home, theirs, ours)

    def constant(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with _in_order(theirs, ours, *arguments):
                return outward(function(*inward(*arguments)))

        return call

    def primitive(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: _differentiable(ours, constant(function), _no_vjp, *arguments)

    def _no_vjp(*_: Any) -> Any:
        raise BackendRefused(
            f"backend {foreign.name!r} passes gradients on to another library through bra alone; "
            "detach the arrays, or let a backend of their own library compute the primitives"
        )

    def vjp(*arguments: Any) -> tuple[Array, Pullback]:
        with _in_order(theirs, ours, *arguments):
            out, pullback = compose.bra_vjp(foreign, *inward(*arguments))
            return outward(out), constant(lambda d_out: tuple(pullback(d_out)))

    def bra(*arguments: Any) -> Array:
        forward = constant(lambda *moved: compose.bra(foreign, *moved))
        return _differentiable(ours, forward, vjp, *arguments)

    return Backend(
        name=foreign.name,
        library=foreign.library,
        refuses=foreign.refuses,
        partition=primitive(foreign.partition),
        merge=primitive(foreign.merge),
        summarize=primitive(foreign.summarize),
        route=constant(foreign.route),
        gather=primitive(foreign.gather),
        key_mask=constant(foreign.key_mask),
        attend=primitive(foreign.attend),
        bra_routes=constant(lambda *moved: compose.bra_routes(foreign, *moved)),
        bra=bra,
        bra_vjp=vjp,
        extent=home.extent,
    )


def _crossing(
    foreign: Backend, home: Backend, theirs: Exchange, ours: Exchange
) -> tuple[Callable[..., list[Any]], Callable[[Any], Any]]:
    """The way of arguments to the foreign library, and that of results back; what is no array
    goes as it is."""

    def inward(*arguments: Any) -> list[Any]:
        return [moved(x) if _is_array(x) else x for x in arguments]

    def moved(x: Array) -> Array:
        try:
            return theirs.take(ours.give(x))
        except Exception as error:
            raise BackendRefused(
                f"backend {foreign.name!r} cannot read this {home.library} array ({error}); "
                f"convert it to {foreign.library}, or use a backend for {home.library}"
            ) from error

    def outward(result: Any) -> Any:
        if isinstance(result, tuple):
            parts = [outward(x) for x in result]
            return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
        return ours.take(theirs.give(result)) if _is_array(result) else result

    return inward, outward


def _in_order(theirs: Exchange, ours: Exchange, *arguments: Any) -> AbstractContextManager[object]:
    """Within it, work of the foreign library comes after what ours has queued up to now, and before
    what it queues then: on one device both work on our stream."""
    if theirs.on is None or ours.stream is None:
        return nullcontext()
    stream = next((ours.stream(x) for x in arguments if _is_array(x)), None)
    return nullcontext() if stream is None else theirs.on(stream)


def _differentiable(
    ours: Exchange, function: Callable[..., Any], vjp: Callable[..., Any], *arguments: Any
) -> Any:
    """``function``, with the derivative that ``vjp`` has, where our library has derivatives."""
    if ours.custom_vjp is None:
        return function(*arguments)
    return ours.custom_vjp(function, vjp, *arguments)


def _is_array(x: Any) -> bool:
    return hasattr(x, "__dlpack__")
