"""The operator under given routes by fused kernels, and its pullback (equations 6 and 7).

Both work on the device of the arrays, current or not: a kernel of another could not read them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bilevel.protocol import Array, Pullback, Routed
from bilevel_cupy import forward_backward, gathered
from bilevel_cupy.block_lists import token_tables
from bilevel_cupy.call import MAX_AXES, Call, uniform_token_stride

MAX_CHANNELS = 128
"""Most channels per head for which there are kernels."""
MAX_COUNT = 2**31 - 2**10
"""Most positions in the regions of an image, and most routes of an image: kernels count them in 32
bits, and a little beyond."""


def bra(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> Array:
    """One kernel and the lists of integers that it reads; what kernels do not take is gathered."""
    with _device_of(q):
        if not _fits(q, v, routed):
            return gathered.bra_vjp(xp, q, k, v, routed)[0]
        call = _call(xp, q, k, v, routed)
        return forward_backward.forward(xp, call, token_tables(xp, call))[0]


def bra_vjp(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Pullback]:
    """``out`` as of :func:`bra`, and its pullback."""
    vjp = _vjp if _fits(q, v, routed) else gathered.bra_vjp
    with _device_of(q):
        out, pullback = vjp(xp, q, k, v, routed)

    def on_its_device(d_out: Array) -> tuple[Array, Array, Array]:
        with _device_of(d_out):
            return pullback(d_out)

    return out, on_its_device


def _vjp(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Pullback]:
    call = _call(xp, q, k, v, routed)
    tables = token_tables(xp, call)
    out, lse = forward_backward.forward(xp, call, tables)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        return forward_backward.backward(
            xp, call, tables, out, lse, uniform_token_stride(xp, d_out)
        )

    return out, pullback


def _device_of(x: Array) -> AbstractContextManager[object]:
    """Within it the device of ``x`` is current. CuPy's devices are such contexts; the CPU, where
    tests run kernels, is not."""
    return x.device if hasattr(x.device, "__enter__") else nullcontext()


def _fits(q: Array, v: Array, routed: Routed) -> bool:
    """Whether kernels take a call: there is something to compute, and neither heads nor grids are
    too large."""
    index, q_grid, k_grid, _ = routed
    images, channels = q.shape[0], max(q.shape[-1], v.shape[-1])
    if images == 0 or channels > MAX_CHANNELS or max(q_grid.ndim, k_grid.ndim) > MAX_AXES:
        return False
    positions = (grid.num_regions * grid.region_tokens for grid in (q_grid, k_grid))
    return max(*positions, q_grid.num_regions * index.shape[-1]) <= MAX_COUNT


def _call(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> Call:
    q, k, v = (uniform_token_stride(xp, x) for x in (q, k, v))
    index = xp.ascontiguousarray(routed.index.astype(np.int32, copy=False))
    return Call(q, k, v, index, *routed[1:])
