"""The definitions written out, token by token, in float64: slow, and apart from every backend.

Maps are float64 ``(N, *spatial, M, D)``.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Routed
from bilevel.testing.arrays import NumpyArray


class Region(NamedTuple):
    """The tokens of one region."""

    tokens: list[int]
    """Their numbers in the map, counted in row-major order."""
    positions: list[int]
    """Their positions in the padded region, counted in row-major order."""


@cache
def regions_of(grid: Grid) -> tuple[Region, ...]:
    """Region i of s on an axis of n tokens covers the tokens i*n//s to (i+1)*n//s, end excluded."""
    largest = [-(-n // s) for n, s in zip(grid.spatial, grid.regions, strict=True)]
    found = []
    for region in product(*map(range, grid.regions)):
        axes = list(zip(region, grid.spatial, grid.regions, strict=True))
        starts = [i * n // s for i, n, s in axes]
        stops = [(i + 1) * n // s for i, n, s in axes]
        here = Region([], [])
        for token in product(*map(range, starts, stops)):
            inside = [t - start for t, start in zip(token, starts, strict=True)]
            here.tokens.append(_row_major(token, grid.spatial))
            here.positions.append(_row_major(inside, largest))
        found.append(here)
    return tuple(found)


def _row_major(position: tuple[int, ...] | list[int], shape: tuple[int, ...] | list[int]) -> int:
    number = 0
    for i, n in zip(position, shape, strict=True):
        number = number * n + i
    return number


def flat(x: NumpyArray) -> NumpyArray:
    """A map with its spatial axes made one: ``(N, tokens, M, D)``."""
    return x.reshape(x.shape[0], prod(x.shape[1:-2]), *x.shape[-2:])


def partitioned(x: NumpyArray, grid: Grid) -> NumpyArray:
    """``(N, R, T, M, D)``, zeros where a region has no token."""
    out = np.zeros((x.shape[0], grid.num_regions, grid.region_tokens, *x.shape[-2:]))
    for i, region in enumerate(regions_of(grid)):
        out[:, i, region.positions] = flat(x)[:, region.tokens]
    return out


def means(x: NumpyArray, grid: Grid) -> NumpyArray:
    """``(N, R, M * D)``."""
    rows = [flat(x)[:, region.tokens].mean(1) for region in regions_of(grid)]
    return np.stack(rows, axis=1).reshape(x.shape[0], grid.num_regions, prod(x.shape[-2:]))


def token_mask(grid: Grid) -> NumpyArray:
    """Where the padded regions hold a token, bool ``(R, T)``."""
    real = np.zeros((grid.num_regions, grid.region_tokens), bool)
    for i, region in enumerate(regions_of(grid)):
        real[i, region.positions] = True
    return real


def softmax_attention(
    q: NumpyArray, k: NumpyArray, v: NumpyArray, scale: float, mask: NumpyArray | None = None
) -> tuple[NumpyArray, NumpyArray]:
    """Queries ``(..., T, M, D)`` attend to keys ``(..., L, M, D)`` where ``mask (..., L)`` is true.

    Returns out ``(..., T, M, Dv)`` and the scores' logsumexp ``(..., T, M)``.
    """
    scores = np.einsum("...tmd,...lmd->...tml", q, k) * scale
    if mask is not None:
        scores = np.where(mask[..., None, None, :], scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(-1)
    out = np.einsum("...tml,...lmd->...tmd", weights, v) / total[..., None]
    return out, np.log(total) + top[..., 0]


def routed_attention(q: NumpyArray, k: NumpyArray, v: NumpyArray, routed: Routed) -> NumpyArray:
    """:func:`bilevel.bra` under given routes: region by region, over tokens without padding."""
    out = np.full((*q.shape[:-1], v.shape[-1]), np.nan)
    out_tokens = flat(out)
    queries, keys, values = flat(q), flat(k), flat(v)
    q_regions, k_regions = regions_of(routed.q_grid), regions_of(routed.k_grid)
    for n, i in np.ndindex(routed.index.shape[:2]):
        here = q_regions[i].tokens
        there = [token for j in routed.index[n, i] for token in k_regions[j].tokens]
        out_tokens[n, here], _ = softmax_attention(
            queries[n, here], keys[n, there], values[n, there], routed.scale
        )
    return out
