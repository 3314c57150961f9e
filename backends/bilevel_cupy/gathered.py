"""The operator from the primitives, which gather keys and values, and its pullback: for arrays that
have no kernels, and for what kernels do not take.

The pullbacks of ``gather`` and ``attend`` are here; ``partition`` and ``merge`` are each other's.
Means of regions serve the routing alone, through which no gradient flows.
"""

from __future__ import annotations

from typing import Any

from bilevel.protocol import Array, Attended, Pullback, Routed
from bilevel_cupy.primitives import (
    attend,
    gather,
    heads_first,
    key_mask,
    merge,
    partition,
    rows_of_images,
    scores,
    unmasked,
)


def gather_pullback(xp: Any, d_rows: Array, index: Array, regions: int) -> Array:
    """``(N, R, k * T, M, D)`` to ``(N, Rk, T, M, D)``: a region's sum over all that took it.

    What a region gets is brought side by side, then added up in pairs, pairs of pairs and so on:
    the order is always the same, and no sum meets what is another region's, which may be NaN.
    """
    n, r, k = index.shape
    length, m, d = d_rows.shape[2:]
    shares, width = r * k, length // k * m * d
    of_region = xp.reshape(xp.astype(index, xp.int64), (n, shares))
    order = xp.argsort(of_region, axis=1, stable=True)
    of_region = xp.take_along_axis(of_region, order, axis=1)
    rows = xp.reshape(d_rows, (n * shares, width))
    rows = xp.take(rows, rows_of_images(xp, order, shares), axis=0)
    total = _running_sums(xp, xp.reshape(rows, (n, shares, width)), of_region)
    region = xp.arange(regions, dtype=xp.int64, device=index.device)
    up_to = xp.astype(of_region[:, None, :] <= region[None, :, None], xp.int64)
    last = xp.maximum(xp.sum(up_to, axis=2) - 1, xp.zeros_like(region))
    taken = xp.take_along_axis(of_region, last, axis=1) == region
    total = xp.take(
        xp.reshape(total, (n * shares, width)), rows_of_images(xp, last, shares), axis=0
    )
    d_x = xp.where(taken[:, :, None], xp.reshape(total, (n, regions, width)), 0.0)
    return xp.reshape(d_x, (n, regions, length // k, m, d))


def _running_sums(xp: Any, rows: Array, of_region: Array) -> Array:
    """Each row ``(N, shares, width)`` and those before it that are the same region's, added up;
    a region's rows are side by side."""
    apart = 1
    while apart < rows.shape[1]:
        same = of_region[:, apart:] == of_region[:, :-apart]
        before = xp.where(same[:, :, None], rows[:, :-apart, :], 0.0)
        rows = xp.concat([rows[:, :apart, :], rows[:, apart:, :] + before], axis=1)
        apart *= 2
    return rows


def attend_pullback(
    xp: Any,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    scale: float,
    attended: Attended,
    d_out: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, float32 or float64, from that of ``attended.out``.

    With weights p = exp(s - lse) and their gradient dp = do v.T: dv = p.T do,
    ds = p (dp - rowsum(p dp)), dq = ds k scale, dk = ds.T q scale.
    """
    queries, d_out = heads_first(xp, q), heads_first(xp, d_out)
    keys, values = (heads_first(xp, unmasked(xp, x, mask)) for x in (k, v))
    lse = xp.permute_dims(attended.lse, (0, 1, 3, 2))[..., None]
    weight = xp.exp(scores(xp, queries, keys, mask, scale) - lse)
    d_weight = xp.matmul(d_out, xp.matrix_transpose(values))
    d_score = weight * (d_weight - xp.sum(weight * d_weight, axis=-1, keepdims=True)) * scale
    gradients = (
        xp.matmul(d_score, keys),
        xp.matmul(xp.matrix_transpose(d_score), queries),
        xp.matmul(xp.matrix_transpose(weight), d_out),
    )
    d_q, d_k, d_v = (heads_first(xp, x) for x in gradients)
    return d_q, d_k, d_v


def bra_vjp(xp: Any, q: Array, k: Array, v: Array, routed: Routed) -> tuple[Array, Pullback]:
    """BRA under given routes (equations 6 and 7), and its pullback."""
    index, q_grid, k_grid, scale = routed
    queries = partition(xp, q, q_grid)
    keys, values = (gather(xp, partition(xp, x, k_grid), index) for x in (k, v))
    mask = None if k_grid.uniform else key_mask(xp, index, k_grid)
    attended = attend(xp, queries, keys, values, mask, scale)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        d_regions = partition(xp, d_out, q_grid)
        d_q, *d_rows = attend_pullback(xp, queries, keys, values, mask, scale, attended, d_regions)
        d_k, d_v = (gather_pullback(xp, x, index, k_grid.num_regions) for x in d_rows)
        in_place = ((d_q, q_grid), (d_k, k_grid), (d_v, k_grid))
        d_q, d_k, d_v = (xp.astype(merge(xp, x, grid), q.dtype) for x, grid in in_place)
        return d_q, d_k, d_v

    return merge(xp, attended.out, q_grid), pullback
