"""The primitives on any library that follows the array API standard, whose namespace ``xp`` is the
first argument of each.

Tokens go by numbers: a table says which token of the map is at which place of which region, and
taking rows by it is all that moves them. Nothing waits for the device.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from math import inf, prod
from typing import Any

from bilevel.grid import Grid
from bilevel.protocol import Array, Attended, Routes


def layout(xp: Any, grid: Grid, device: Any) -> tuple[Array, Array]:
    """The number of the token at each place of each region, int64 ``(R * T,)``, and whether there
    is one, bool; where there is none the number is that after the last token."""
    place = xp.arange(grid.num_regions * grid.region_tokens, dtype=xp.int64, device=device)
    region, within = place // grid.region_tokens, place % grid.region_tokens
    token, real, apart = xp.zeros_like(place), place >= 0, 1
    for axis in reversed(grid.axes):
        i, region = region % axis.regions, region // axis.regions
        at, within = i * axis.tokens // axis.regions + within % axis.size, within // axis.size
        real = real & (at < (i + 1) * axis.tokens // axis.regions)
        token, apart = token + at * apart, apart * axis.tokens
    return xp.where(real, token, apart), real


def partition(xp: Any, x: Array, grid: Grid) -> Array:
    n, token = x.shape[0], x.shape[-2:]
    tokens = xp.reshape(x, (n, prod(grid.spatial), *token))
    if not grid.uniform:
        padding = xp.zeros((n, 1, *token), dtype=x.dtype, device=x.device)
        tokens = xp.concat([tokens, padding], axis=1)
    number, _ = layout(xp, grid, x.device)
    regions = xp.take(tokens, number, axis=1)
    return xp.reshape(regions, (n, grid.num_regions, grid.region_tokens, *token))


def merge(xp: Any, x: Array, grid: Grid) -> Array:
    n, r, t, *token = x.shape
    number, _ = layout(xp, grid, x.device)
    # Places in the order of their tokens: those without one come last.
    place = xp.argsort(number, stable=True)[: prod(grid.spatial)]
    tokens = xp.take(xp.reshape(x, (n, r * t, *token)), place, axis=1)
    return xp.reshape(tokens, (n, *grid.spatial, *token))


def summarize(xp: Any, x: Array, grid: Grid) -> Array:
    total = xp.sum(wide(xp, partition(xp, x, grid)), axis=2)
    mean = total / region_sizes(xp, grid, total)[:, None, None]
    return xp.reshape(mean, (*mean.shape[:2], x.shape[-2] * x.shape[-1]))


def region_sizes(xp: Any, grid: Grid, like: Array) -> Array:
    """The tokens of each region ``(R,)``, of the dtype of ``like``."""
    _, real = layout(xp, grid, like.device)
    by_region = xp.reshape(real, (grid.num_regions, grid.region_tokens))
    return xp.sum(xp.astype(by_region, like.dtype), axis=1)


def route(xp: Any, q_mean: Array, k_mean: Array, topk: int) -> Routes:
    score = xp.matmul(wide(xp, q_mean), xp.matrix_transpose(wide(xp, k_mean)))
    score = xp.where(xp.isnan(score), -inf, score)
    # Subtracting from zero makes all zeros alike, so that they tie in any sort.
    index = xp.argsort(0.0 - score, axis=-1, stable=True)[..., :topk]
    return Routes(index, xp.take_along_axis(score, index, axis=-1))


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
    _, real = layout(xp, grid, index.device)
    by_region = xp.reshape(real, (grid.num_regions, grid.region_tokens))
    rows = xp.take(by_region, xp.reshape(xp.astype(index, xp.int64), (-1,)), axis=0)
    return xp.reshape(rows, (*index.shape[:2], index.shape[2] * grid.region_tokens))


def attend(xp: Any, q: Array, k: Array, v: Array, mask: Array | None, scale: float) -> Attended:
    queries, keys, values = (
        heads_first(xp, x) for x in (q, unmasked(xp, k, mask), unmasked(xp, v, mask))
    )
    score = scores(xp, queries, keys, mask, scale)
    top = xp.max(score, axis=-1, keepdims=True)
    weight = xp.exp(score - top)
    total = xp.sum(weight, axis=-1, keepdims=True)
    out = heads_first(xp, xp.matmul(weight / total, values))
    lse = xp.permute_dims((xp.log(total) + top)[..., 0], (0, 1, 3, 2))
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
