"""The backend for NumPy as a value: the reference, with the kernel for routing and the operator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Problem, Pullback, Routed, Routes
from bilevel_cpu import call
from bilevel_cpu.call import MAX_AXES, Memory, Sizes, Team
from bilevel_cpu.library import STORED, why_not
from bilevel_cpu.threads import allowed
from bilevel_numpy.backend import BACKEND as REFERENCE
from bilevel_numpy.backend import DTYPES
from bilevel_numpy.primitives import Array, accumulator


def refuses(problem: Problem) -> str | None:
    on_cpu = (problem.library, problem.device) == ("numpy", "cpu")
    if not on_cpu or problem.dtype not in (*DTYPES, ""):
        return f"takes only {', '.join(DTYPES)} numpy arrays on cpu"
    if (problem.axes or 0) > MAX_AXES:
        return f"takes only maps of at most {MAX_AXES} spatial axes (here {problem.axes})"
    return why_not(problem.dtype) if problem.dtype in STORED else None


def bra_routes(q: Array, k: Array, q_grid: Grid, k_grid: Grid, topk: int) -> Routes:
    """Equations 4 and 5 of BiFormer."""
    q, k = map(_addressable, (q, k))
    shape = (q.shape[0], q_grid.num_regions, topk)
    index, score = np.empty(shape, np.int64), np.empty(shape, accumulator(q))
    if index.size:
        sizes = _sizes(q, k, topk, q_grid, k_grid, 1.0)
        maps = {"q": _memory(q), "k": _memory(k)}
        call.find_routes(sizes, _team(), index.ctypes.data, score.ctypes.data, **maps)
    return Routes(index, score)


def bra(q: Array, k: Array, v: Array, routed: Routed) -> Array:
    """Equations 6 and 7 of BiFormer, in one kernel."""
    q, k, v = map(_addressable, (q, k, v))
    return _forward(q, k, v, routed, None)


def bra_vjp(q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Pullback]:
    """The operator and its pullback."""
    q, k, v = map(_addressable, (q, k, v))
    lse = np.empty(q.shape[:-1], accumulator(q))
    out = _forward(q, k, v, routed, lse)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        d_out = _addressable(d_out)
        d_q, d_k, d_v = gradients = tuple(np.empty(x.shape, x.dtype) for x in (q, k, v))
        if out.size:
            index, sizes = _call(q, k, v, routed)
            names = ("q", "k", "v", "out", "lse", "d_out", "d_q", "d_k", "d_v")
            arrays = (q, k, v, out, lse, d_out, *gradients)
            maps = dict(zip(names, map(_memory, arrays), strict=True))
            call.backward(sizes, _team(), index.ctypes.data, **maps)
        return d_q, d_k, d_v

    # The pullback reads the output: the caller may write to its own.
    return out.copy(), pullback


def _forward(q: Array, k: Array, v: Array, routed: Routed, lse: Array | None) -> Array:
    out = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    if out.size:
        index, sizes = _call(q, k, v, routed)
        maps = dict(zip(("q", "k", "v", "out"), map(_memory, (q, k, v, out)), strict=True))
        if lse is not None:
            maps["lse"] = _memory(lse)
        call.forward(sizes, _team(), index.ctypes.data, **maps)
    return out


def _call(q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Sizes]:
    index = np.ascontiguousarray(routed.index, np.int64)
    sizes = _sizes(q, v, index.shape[-1], routed.q_grid, routed.k_grid, routed.scale)
    return index, sizes


def _sizes(q: Array, v: Array, topk: int, q_grid: Grid, k_grid: Grid, scale: float) -> Sizes:
    images, heads, dim = q.shape[0], *q.shape[-2:]
    return Sizes(str(q.dtype), images, heads, topk, dim, v.shape[-1], q_grid, k_grid, scale)


def _team() -> Team:
    return Team(allowed(), None)


def _addressable(x: Array) -> Array:
    """``x``; a copy if its strides are no multiples of its items' size, or its items not where
    the CPU wants them."""
    whole = x.flags.aligned and not any(stride % x.itemsize for stride in x.strides)
    return x if whole else x.copy()


def _memory(x: Array) -> Memory:
    return Memory(x.ctypes.data, [stride // x.itemsize for stride in x.strides])


BACKEND = replace(
    REFERENCE,
    name="cpu-numpy",
    refuses=refuses,
    bra_routes=bra_routes,
    bra=bra,
    bra_vjp=bra_vjp,
)
