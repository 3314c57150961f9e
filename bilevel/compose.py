"""What a backend leaves out, composed of what it has: the operator from the primitives."""

from __future__ import annotations

from bilevel.errors import BackendRefused
from bilevel.grid import Grid
from bilevel.protocol import Array, Backend, Pullback, Routed, Routes


def bra_routes(
    backend: Backend, q: Array, k: Array, q_grid: Grid, k_grid: Grid, topk: int
) -> Routes:
    """The routes of every query region (equations 4 and 5)."""
    if backend.bra_routes is not None:
        return backend.bra_routes(q, k, q_grid, k_grid, topk)
    return backend.route(backend.summarize(q, q_grid), backend.summarize(k, k_grid), topk)


def bra(backend: Backend, q: Array, k: Array, v: Array, routed: Routed) -> Array:
    """BRA under given routes (equations 6 and 7)."""
    if backend.bra is not None:
        return backend.bra(q, k, v, routed)
    index, q_grid, k_grid, scale = routed
    mask = None if k_grid.uniform else backend.key_mask(index, k_grid)
    attended = backend.attend(
        backend.partition(q, q_grid),
        backend.gather(backend.partition(k, k_grid), index),
        backend.gather(backend.partition(v, k_grid), index),
        mask,
        scale,
    )
    return backend.merge(attended.out, q_grid)


def bra_vjp(
    backend: Backend, q: Array, k: Array, v: Array, routed: Routed
) -> tuple[Array, Pullback]:
    """BRA under given routes, and its pullback."""
    if backend.bra_vjp is not None:
        return backend.bra_vjp(q, k, v, routed)
    if backend.vjp is None:
        raise BackendRefused(
            f"backend {backend.name!r} computes no gradients; use another, "
            "bilevel.backends() lists them"
        )
    return backend.vjp(lambda q, k, v: bra(backend, q, k, v, routed), q, k, v)
