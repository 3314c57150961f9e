"""Routing on any library that follows the array API standard, whose namespace ``xp`` is the first
argument: means of regions, and the key regions that score best (equations 4 and 5).

Letters: N images, M heads, D channels per head, R regions, k routed regions.
"""

from __future__ import annotations

from math import inf
from typing import Any

from bilevel.grid import Grid
from bilevel.protocol import Array, Routes
from bilevel_cupy.primitives import partition, tokens_of_regions, wide


def summarize(xp: Any, x: Array, grid: Grid) -> Array:
    total = xp.sum(wide(xp, partition(xp, x, grid)), axis=2)
    mean = total / region_sizes(xp, grid, total)[:, None, None]
    return xp.reshape(mean, (*mean.shape[:2], x.shape[-2] * x.shape[-1]))


def region_sizes(xp: Any, grid: Grid, like: Array) -> Array:
    """The tokens of each region ``(R,)``, of the dtype of ``like``."""
    _, valid = tokens_of_regions(xp, grid, like.device)
    by_region = xp.reshape(valid, (grid.num_regions, grid.region_tokens))
    return xp.sum(xp.astype(by_region, like.dtype), axis=1)


def route(xp: Any, q_mean: Array, k_mean: Array, topk: int) -> Routes:
    score = xp.matmul(wide(xp, q_mean), xp.matrix_transpose(wide(xp, k_mean)))
    score = xp.where(xp.isnan(score), -inf, score)
    # Subtracting from zero makes all zeros alike, so that they tie in any sort.
    index = xp.argsort(0.0 - score, axis=-1, stable=True)[..., :topk]
    return Routes(index, xp.take_along_axis(score, index, axis=-1))
