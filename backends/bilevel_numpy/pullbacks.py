"""The pullbacks of the primitives, by hand: from the gradient of an output to those of its inputs.

The pullback of ``partition`` is ``merge`` and the other way round, for one puts zeros where the
other drops padding. Routes are integers: nothing flows back through ``route`` and ``key_mask``.
"""

from __future__ import annotations

import numpy as np

from bilevel.protocol import Attended, Pullback, Routed
from bilevel_numpy.primitives import (
    Array,
    accumulator,
    attend,
    gather,
    key_mask,
    merge,
    partition,
)


def gather_pullback(d_rows: Array, index: Array, regions: int) -> Array:
    """``(N, R, k * T, M, D)`` to ``(N, Rk, T, M, D)``: a region's sum over all that took it."""
    n, r, k = index.shape
    length, m, d = d_rows.shape[2:]
    d_x = np.zeros((n, regions, length // k, m, d), d_rows.dtype)
    images = np.arange(n)[:, None, None]
    np.add.at(d_x, (images, index), d_rows.reshape(n, r, k, length // k, m, d))
    return d_x


def attend_pullback(
    q: Array, k: Array, v: Array, mask: Array | None, scale: float, attended: Attended, d_out: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, float32 or float64, from that of ``attended.out``.

    With weights p = exp(s - lse): dv = p.T do, ds = p (do v.T - rowsum(do o)), dq = ds k scale,
    dk = ds.T q scale.
    """
    dtype = accumulator(q)
    # (N, R, T, M, D) -> (N, R, M, T, D)
    q, k, v, out, d_out = (x.astype(dtype).swapaxes(2, 3) for x in (q, k, v, attended.out, d_out))
    with np.errstate(invalid="ignore", over="ignore"):
        if mask is not None:
            k, v = (np.where(mask[:, :, None, :, None], x, dtype.type(0)) for x in (k, v))
        scores = q @ k.swapaxes(-1, -2) * dtype.type(scale)
        weights = np.exp(scores - attended.lse.swapaxes(2, 3)[..., None])
        if mask is not None:
            weights = np.where(mask[:, :, None, None, :], weights, dtype.type(0))
        d_v = weights.swapaxes(-1, -2) @ d_out
        delta = (d_out * out).sum(-1, keepdims=True)
        d_scores = weights * (d_out @ v.swapaxes(-1, -2) - delta) * dtype.type(scale)
        d_q, d_k = d_scores @ k, d_scores.swapaxes(-1, -2) @ q
    return d_q.swapaxes(2, 3), d_k.swapaxes(2, 3), d_v.swapaxes(2, 3)


def bra_vjp(q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Pullback]:
    """BRA under given routes, and its pullback."""
    index, q_grid, k_grid, scale = routed
    regions = partition(q, q_grid)
    keys, values = (gather(partition(x, k_grid), index) for x in (k, v))
    mask = None if k_grid.uniform else key_mask(index, k_grid)
    attended = attend(regions, keys, values, mask, scale)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        d_regions = partition(d_out, q_grid)
        d_q, *d_rows = attend_pullback(regions, keys, values, mask, scale, attended, d_regions)
        d_k, d_v = (gather_pullback(d, index, k_grid.num_regions) for d in d_rows)
        d_inputs = (merge(d_q, q_grid), merge(d_k, k_grid), merge(d_v, k_grid))
        return tuple(d.astype(q.dtype, copy=False) for d in d_inputs)  # type: ignore[return-value]

    return merge(attended.out, q_grid), pullback
