"""The primitives on any library that follows the array API standard, whose namespace ``xp`` is the
first argument of each. Those of routing are in :mod:`bilevel_cupy.routing`.

Tokens go by numbers: a table says which token is at which position of which region, and taking rows
by it is all that moves them. Nothing waits for the device.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from math import inf, prod
from typing import Any

from bilevel.grid import Grid
from bilevel.protocol import Array, Attended


def tokens_of_regions(xp: Any, grid: Grid, device: Any) -> tuple[Array, Array]:
    """The number of the token at each position of each region, int64 ``(R * T,)``, and whether
    there is one, bool; where there is none, the number is that after the last token."""
    number = xp.arange(grid.num_regions * grid.region_tokens, dtype=xp.int64, device=device)
    region, position = number // grid.region_tokens, number % grid.region_tokens
    token, valid, stride = xp.zeros_like(number), number >= 0, 1
    for axis in reversed(grid.axes):
        i, region = region % axis.regions, region // axis.regions
        at = i * axis.tokens // axis.regions + position % axis.size
        position = position // axis.size
        valid = valid & (at < (i + 1) * axis.tokens // axis.regions)
        token, stride = token + at * stride, stride * axis.tokens
    return xp.where(valid, token, stride), valid


def partition(xp: Any, x: Array, grid: Grid) -> Array:
    n, token = x.shape[0], x.shape[-2:]
    tokens = xp.reshape(x, (n, prod(grid.spatial), *token))
    if not grid.uniform:
        padding = xp.zeros((n, 1, *token), dtype=x.dtype, device=x.device)
        tokens = xp.concat([tokens, padding], axis=1)
    number, _ = tokens_of_regions(xp, grid, x.device)
    regions = xp.take(tokens, number, axis=1)
    return xp.reshape(regions, (n, grid.num_regions, grid.region_tokens, *token))


def merge(xp: Any, x: Array, grid: Grid) -> Array:
    n, r, t, *token = x.shape
    number, _ = tokens_of_regions(xp, grid, x.device)
    # Positions in the order of their tokens: those without one come last.
    order = xp.argsort(number, stable=True)[: prod(grid.spatial)]
    tokens = xp.take(xp.reshape(x, (n, r * t, *token)), order, axis=1)
    return xp.reshape(tokens, (n, *grid.spatial, *token))


def gather(xp: Any, x: Array, index: Array) -> Array:
    n, r, t, *token = x.shape
    regions = xp.reshape(x, (n * r, t, *token))
    rows = xp.take(regions, rows_of_images(xp, index, r), axis=0)
    return xp.reshape(rows, (n, index.shape[1], index.shape[2] * t, *token))


def rows_of_images(xp: Any, index: Array, rows: int) -> Array:
    """Row numbers ``(N, ...)`` in images of ``rows`` rows each, as numbers among all rows, int64
    and flat."""
    image = xp.arange(index.shape[0], dtype=xp.int64, device=index.device)
    first = xp.reshape(image * rows, (-1, *(1,) * (index.ndim - 1)))
    return xp.reshape(xp.astype(index, xp.int64) + first, (-1,))


def key_mask(xp: Any, index: Array, grid: Grid) -> Array:
    _, valid = tokens_of_regions(xp, grid, index.device)
    by_region = xp.reshape(valid, (grid.num_regions, grid.region_tokens))
    rows = xp.take(by_region, xp.reshape(xp.astype(index, xp.int64), (-1,)), axis=0)
    return xp.reshape(rows, (*index.shape[:2], index.shape[2] * grid.region_tokens))


def attend(xp: Any, q: Array, k: Array, v: Array, mask: Array | None, scale: float) -> Attended:
    queries, keys, values = (
        heads_first(xp, x) for x in (q, unmasked(xp, k, mask), unmasked(xp, v, mask))
    )
    score = scores(xp, queries, keys, mask, scale)
    highest = xp.max(score, axis=-1, keepdims=True)
    weight = xp.exp(score - highest)
    total = xp.sum(weight, axis=-1, keepdims=True)
    out = heads_first(xp, xp.matmul(weight / total, values))
    lse = xp.permute_dims((xp.log(total) + highest)[..., 0], (0, 1, 3, 2))
    return Attended(xp.astype(out, q.dtype), lse)


def unmasked(xp: Any, x: Array, mask: Array | None) -> Array:
    """Keys or values ``(N, R, L, M, D)``, wide, zero where ``mask`` is False: what is there may be
    NaN, and zero times NaN is NaN."""
    x = wide(xp, x)
    return x if mask is None else xp.where(mask[:, :, :, None, None], x, 0.0)


def heads_first(xp: Any, x: Array) -> Array:
    """``(N, R, T, M, D)`` to ``(N, R, M, T, D)``, or back; wide."""
    return xp.permute_dims(wide(xp, x), (0, 1, 3, 2, 4))


def scores(xp: Any, queries: Array, keys: Array, mask: Array | None, scale: float) -> Array:
    """``(N, R, M, T, D)`` and ``(N, R, M, L, D)`` to ``(N, R, M, T, L)``; -inf where masked."""
    score = xp.matmul(queries, xp.matrix_transpose(keys)) * scale
    return score if mask is None else xp.where(mask[:, :, None, None, :], score, -inf)


def wide(xp: Any, x: Array) -> Array:
    """Means, scores, softmax and sums are float32, or float64 for float64."""
    return x if x.dtype == xp.float64 else xp.astype(x, xp.float32, copy=False)
