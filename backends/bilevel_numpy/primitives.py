"""The primitives in NumPy. Written to be read: other backends are measured against this one.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bilevel.grid import Axis, Grid
from bilevel.protocol import Attended, Routes

Array: TypeAlias = npt.NDArray[Any]


def axis_tokens(axis: Axis) -> tuple[Array, Array]:
    """The token behind each place of each padded region, ``(regions, size)``, and which are real.

    A place without a token repeats the axis's last one.
    """
    region = np.arange(axis.regions)[:, None]
    token = region * axis.tokens // axis.regions + np.arange(axis.size)
    real = token < (region + 1) * axis.tokens // axis.regions
    return np.minimum(token, axis.tokens - 1), real


def axis_places(axis: Axis) -> Array:
    """The inverse: the place of each token of the axis among its ``regions * size`` places."""
    token = np.arange(axis.tokens)
    region = ((token + 1) * axis.regions - 1) // axis.tokens
    return region * axis.size + token - region * axis.tokens // axis.regions


def real_tokens(grid: Grid) -> Array:
    """Which places of the padded regions hold a token, bool ``(R, T)``."""
    real = np.ones((1, 1), bool)
    for axis in grid.axes:
        _, of_axis = axis_tokens(axis)
        outer = real[:, None, :, None] & of_axis[None, :, None, :]
        real = outer.reshape(real.shape[0] * axis.regions, real.shape[1] * axis.size)
    return real


def partition(x: Array, grid: Grid) -> Array:
    n, m, d = x.shape[0], *x.shape[-2:]
    if not grid.uniform:
        for i, axis in enumerate(grid.axes, start=1):
            x = np.take(x, axis_tokens(axis)[0].ravel(), axis=i)
    split = [length for axis in grid.axes for length in (axis.regions, axis.size)]
    order = (*range(1, 2 * grid.ndim, 2), *range(2, 2 * grid.ndim + 1, 2))
    x = x.reshape(n, *split, m, d).transpose(0, *order, -2, -1)
    x = x.reshape(n, grid.num_regions, grid.region_tokens, m, d)
    if not grid.uniform:
        x = np.where(real_tokens(grid)[:, :, None, None], x, x.dtype.type(0))
    return x


def merge(x: Array, grid: Grid) -> Array:
    n, m, d = x.shape[0], *x.shape[-2:]
    order = [
        i
        for pair in zip(range(grid.ndim), range(grid.ndim, 2 * grid.ndim), strict=True)
        for i in pair
    ]
    x = x.reshape(n, *grid.regions, *grid.region_shape, m, d)
    x = x.transpose(0, *(i + 1 for i in order), -2, -1)
    x = x.reshape(n, *(axis.regions * axis.size for axis in grid.axes), m, d)
    if not grid.uniform:
        for i, axis in enumerate(grid.axes, start=1):
            x = np.take(x, axis_places(axis), axis=i)
    return x


def summarize(x: Array, grid: Grid) -> Array:
    regions = partition(x, grid).astype(accumulator(x), copy=False)
    tokens = real_tokens(grid).sum(1, dtype=regions.dtype)
    mean = regions.sum(2) / tokens[:, None, None]
    return mean.reshape(*mean.shape[:2], x.shape[-2] * x.shape[-1])


def route(q_mean: Array, k_mean: Array, topk: int) -> Routes:
    dtype = accumulator(q_mean)
    with np.errstate(invalid="ignore"):
        score = q_mean.astype(dtype) @ k_mean.astype(dtype).swapaxes(1, 2)
    score = np.where(np.isnan(score), -np.inf, score)
    index = np.argsort(-score, axis=-1, kind="stable")[..., :topk]
    return Routes(index, np.take_along_axis(score, index, axis=-1))


def gather(x: Array, index: Array) -> Array:
    n, _, t, m, d = x.shape
    rows = x[np.arange(n)[:, None, None], index]
    return rows.reshape(n, index.shape[1], index.shape[2] * t, m, d)


def key_mask(index: Array, grid: Grid) -> Array:
    return real_tokens(grid)[index].reshape(*index.shape[:2], index.shape[2] * grid.region_tokens)


def attend(q: Array, k: Array, v: Array, mask: Array | None, scale: float) -> Attended:
    dtype = accumulator(q)
    # (N, R, T, M, D) -> (N, R, M, T, D), and for k -> (N, R, M, D, L)
    heads_first = q.astype(dtype).swapaxes(2, 3)
    keys = k.astype(dtype).transpose(0, 1, 3, 4, 2)
    values = v.astype(dtype).swapaxes(2, 3)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = heads_first @ keys * dtype.type(scale)
        if mask is not None:
            scores = np.where(mask[:, :, None, None, :], scores, -np.inf)
            values = np.where(mask[:, :, None, :, None], values, dtype.type(0))
        top = scores.max(-1, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        out = (weights @ values / total).swapaxes(2, 3)
        lse = (np.log(total) + top)[..., 0].swapaxes(2, 3)
        return Attended(out.astype(q.dtype), lse)


def accumulator(x: Array) -> np.dtype[Any]:
    """Means, scores, softmax and sums are float32, or float64 for float64."""
    return np.promote_types(x.dtype, np.float32)
