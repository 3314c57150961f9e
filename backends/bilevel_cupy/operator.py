"""The operator under given routes, by fused kernels, and its pullback (equations 6 and 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Array, Pullback
from bilevel_cupy import launch
from bilevel_cupy.call import MAX_AXES, Call, in_rows

WIDEST = 128
"""Channels of a head that kernels are compiled for."""


def fused(q: Array, v: Array, q_grid: Grid, k_grid: Grid) -> bool:
    """Whether kernels take a call; others are composed of the primitives."""
    axes = max(q_grid.ndim, k_grid.ndim)
    return max(q.shape[-1], v.shape[-1]) <= WIDEST and axes <= MAX_AXES


def bra(
    xp: Any, q: Array, k: Array, v: Array, index: Array, q_grid: Grid, k_grid: Grid, scale: float
) -> Array:
    if not q.size or not v.size:
        return xp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    call = _call(xp, q, k, v, index, q_grid, k_grid, scale)
    out, _ = launch.forward(xp, call, launch.token_tables(xp, q_grid, k_grid))
    return out


def bra_vjp(
    xp: Any, q: Array, k: Array, v: Array, index: Array, q_grid: Grid, k_grid: Grid, scale: float
) -> tuple[Array, Pullback]:
    if not q.size or not v.size:
        out = xp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
        return out, lambda d_out: tuple(xp.zeros(x.shape, x.dtype) for x in (q, k, v))
    call = _call(xp, q, k, v, index, q_grid, k_grid, scale)
    tables = launch.token_tables(xp, q_grid, k_grid)
    out, lse = launch.forward(xp, call, tables)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        return launch.backward(xp, call, tables, out, lse, in_rows(xp, d_out))

    return out, pullback


def _call(
    xp: Any, q: Array, k: Array, v: Array, index: Array, q_grid: Grid, k_grid: Grid, scale: float
) -> Call:
    q, k, v = (in_rows(xp, x) for x in (q, k, v))
    index = xp.ascontiguousarray(index.astype(np.int32, copy=False))
    return Call(q, k, v, index, q_grid, k_grid, scale)
