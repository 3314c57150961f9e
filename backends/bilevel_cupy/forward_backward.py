"""The forward and the backward pass: their kernels in order, on CuPy's current stream."""

from __future__ import annotations

from math import prod
from typing import Any

from bilevel.protocol import Array
from bilevel_cupy.block_lists import TokenTables, kv_block_lists, q_block_lists
from bilevel_cupy.call import Call
from bilevel_cupy.launch import TiledKernel
from bilevel_cupy.tiles import padded


def forward(xp: Any, call: Call, tables: TokenTables) -> tuple[Array, Array]:
    """``out`` ``(N, *spatial, M, Dv)`` and the logarithm to base 2 of the softmax's denominator,
    ``(N, M, tokens)``."""
    out = xp.empty((*call.q.shape[:-1], call.v.shape[-1]), dtype=call.q.dtype)
    rows = (call.images, call.heads, prod(call.q_grid.spatial))
    lse = xp.empty(rows, dtype=call.accum_dtype)
    kernel = TiledKernel(call, keys_stationary=False, backward=False)
    kernel.launch(
        xp,
        "forward",
        *(call.q, call.k, call.v, out, lse, *tables, *kv_block_lists(xp, kernel)),
        call.by_value(kernel.tiles, out=out),
    )
    return out, lse


def backward(
    xp: Any, call: Call, tables: TokenTables, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""
    delta = xp.empty(lse.shape, dtype=lse.dtype)
    d_q, d_k, d_v = (xp.empty(x.shape, dtype=x.dtype) for x in (call.q, call.k, call.v))
    of_queries = TiledKernel(call, keys_stationary=False, backward=True)
    of_queries.launch(
        xp,
        "backward_dq",
        *(call.q, call.k, call.v, out, d_out, lse, delta, d_q, *tables),
        *kv_block_lists(xp, of_queries),
        call.by_value(of_queries.tiles, out=out, d_out=d_out, d_q=d_q),
    )
    of_keys = TiledKernel(call, keys_stationary=True, backward=True)
    blocks = q_block_lists(xp, of_keys)
    # Sums of float64 for both do not fit the registers.
    apart = call.q.itemsize == 8 and padded(call.channels) == 128
    for with_dk, with_dv in ((True, False), (False, True)) if apart else ((True, True),):
        of_keys.launch(
            xp,
            "backward_dkdv",
            *(call.q, call.k, call.v, d_out, lse, delta, d_k, d_v, *tables, *blocks),
            call.by_value(of_keys.tiles, d_out=d_out, d_k=d_k, d_v=d_v),
            flags=(with_dk, with_dv),
        )
    return d_q, d_k, d_v
