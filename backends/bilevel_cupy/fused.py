"""The operator under given routes by fused kernels, and its pullback (equations 6 and 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevel import compose
from bilevel.protocol import Array, Backend, Pullback, Routed
from bilevel_cupy import launch
from bilevel_cupy.call import MAX_AXES, Call, in_rows

WIDEST = 128
"""Channels of a head that kernels are compiled for, at most."""
MOST = 2**31 - 2**10
"""Places of an image's regions, and routes of an image, at most: kernels count them in 32 bits, and
a little beyond."""


def bra(xp: Any, composed: Backend, q: Array, k: Array, v: Array, routed: Routed) -> Array:
    """One kernel, and the lists of integers it needs; what kernels do not take is ``composed``."""
    if not _fits(q, v, routed):
        return compose.bra(composed, q, k, v, routed)
    call = _call(xp, q, k, v, routed)
    out, _ = launch.forward(xp, call, launch.token_tables(xp, call))
    return out


def bra_vjp(
    xp: Any, composed: Backend, q: Array, k: Array, v: Array, routed: Routed
) -> tuple[Array, Pullback]:
    if not _fits(q, v, routed):
        return compose.bra_vjp(composed, q, k, v, routed)
    call = _call(xp, q, k, v, routed)
    tables = launch.token_tables(xp, call)
    out, lse = launch.forward(xp, call, tables)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        return launch.backward(xp, call, tables, out, lse, in_rows(xp, d_out))

    return out, pullback


def _fits(q: Array, v: Array, routed: Routed) -> bool:
    """Whether kernels take a call: there is something to compute, and heads and maps are not too
    large."""
    index, q_grid, k_grid, _ = routed
    images, channels = q.shape[0], max(q.shape[-1], v.shape[-1])
    if images == 0 or channels > WIDEST or max(q_grid.ndim, k_grid.ndim) > MAX_AXES:
        return False
    places = (grid.num_regions * grid.region_tokens for grid in (q_grid, k_grid))
    return max(*places, q_grid.num_regions * index.shape[-1]) <= MOST


def _call(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> Call:
    q, k, v = (in_rows(xp, x) for x in (q, k, v))
    index = xp.ascontiguousarray(routed.index.astype(np.int32, copy=False))
    return Call(q, k, v, index, *routed[1:])
