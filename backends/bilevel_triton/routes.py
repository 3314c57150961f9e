"""The routes of a call: kernels for the means of regions, and for the best of their products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel.protocol import Routes
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton import memory
from bilevel_triton.call import in_rows, map_of, precision
from bilevel_triton.kernels.routes import average_regions, choose_regions
from bilevel_triton.tiles import Side, fitting, side

STEP = 32
"""Channels that are multiplied together, at most."""

NUMBERS = 4096
"""A tile holds at most so many."""

FEWEST_LANES = 16
"""Tokens that a program reads together, at least: of several regions, where they are smaller."""

MOST_LANES = 128
"""Tokens that it reads together, at most."""

MOST_ROWS = 16
"""Query regions of a program that chooses, at most."""

MOST_REGIONS = 1024
"""Key regions that one chooses from, at most."""

MOST_ROUTES = 64
"""Routes of a query region, at most, that are chosen one after the other."""


class Shape(NamedTuple):
    """What the kernel for means is told at each launch, as :class:`~bilevel_triton.call.Shape`."""

    sizes: tuple[tuple[int, int, int], tuple[int, int, int]]


class Averaging(NamedTuple):
    """What the kernel for means is compiled for."""

    split: tuple[tuple[int, int, int], tuple[int, int, int]]
    ragged: bool
    """As :class:`~bilevel_triton.call.How` has them."""
    channels: int
    """Of all heads."""
    head_dim: int
    row: int
    """The multiple of :data:`STEP` that has room for all channels."""
    block: int
    """Channels of one program."""
    group: int
    """Regions of one program."""
    lanes: int
    """Tokens of a region that are read together."""


class Sizes(NamedTuple):
    """What the kernel that chooses is told at each launch."""

    q_regions: int
    k_regions: int
    row: int
    topk: int


class Choosing(NamedTuple):
    """What the kernel that chooses is compiled for."""

    rows: int
    """Query regions of one program."""
    columns: int
    """The power of two that has room for all key regions."""
    step: int
    """Channels that are multiplied together."""
    precision: str
    """``"ieee"`` or ``"tf32"``"""


def routes(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int) -> Routes:
    """Equations 4 and 5 of BiFormer: int64 and float32 ``(N, R, k)``, in row-major order.

    Where there are more key regions than a tile holds, or more routes than are worth choosing one
    by one, torch multiplies and sorts; the means are the kernel's all the same.
    """
    q_mean, k_mean = means(q, k, q_grid, k_grid)
    if k_grid.num_regions > MOST_REGIONS or topk > MOST_ROUTES:
        index, score = TORCH.route(q_mean, k_mean, topk)
        return Routes(index.contiguous(), score.contiguous())
    return best(q_mean, k_mean, topk)


def means(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid) -> tuple[Tensor, Tensor]:
    """The means of the regions of queries and of keys, float32 ``(N, R, row)``: zeros follow the
    ``M * D`` channels, so that products need no mask."""
    queries, keys = side(q_grid), side(k_grid)
    how = averaging(queries, keys, *q.shape[-2:])
    q_mean, k_mean = (
        memory.empty(q, (q.shape[0], s.regions, how.row), torch.float32) for s in (queries, keys)
    )
    groups = sum(-(-s.regions // how.group) for s in (queries, keys))
    average_regions[(q.shape[0] * groups * -(-how.row // how.block),)](
        map_of(in_rows(q)),
        map_of(in_rows(k)),
        q_mean,
        k_mean,
        Shape((queries.sizes, keys.sizes)),
        how,
        **_options(how.group * how.lanes * how.block, 512),
    )
    return q_mean, k_mean


def averaging(queries: Side, keys: Side, heads: int, head_dim: int) -> Averaging:
    """As many tokens as a tile may have, and as many channels as then fit."""
    channels = heads * head_dim
    lanes = fitting(max(queries.tokens, keys.tokens), MOST_LANES, smallest=1)
    group = max(1, FEWEST_LANES // lanes)
    return Averaging(
        split=(queries.split, keys.split),
        ragged=not (queries.uniform and keys.uniform),
        channels=channels,
        head_dim=head_dim,
        row=STEP * -(-channels // STEP),
        block=fitting(channels, NUMBERS // (group * lanes)),
        group=group,
        lanes=lanes,
    )


def best(q_mean: Tensor, k_mean: Tensor, topk: int) -> Routes:
    """The routes between regions with the means ``(N, R, row)`` and ``(N, Rk, row)``."""
    images, regions, row = q_mean.shape
    index, score = (
        memory.empty(q_mean, (images, regions, topk), dtype)
        for dtype in (torch.int64, torch.float32)
    )
    sizes = Sizes(regions, k_mean.shape[1], row, topk)
    how = choosing(sizes.k_regions)
    tiles = -(-regions // how.rows)
    choose_regions[(images * tiles,)](
        q_mean,
        k_mean,
        index,
        score,
        tiles,
        sizes,
        how,
        **_options(how.rows * how.columns, 256),
    )
    return Routes(index, score)


def choosing(k_regions: int) -> Choosing:
    """All key regions in a tile, and as many query regions as fit."""
    columns = fitting(k_regions, MOST_REGIONS)
    return Choosing(
        rows=min(MOST_ROWS, NUMBERS // columns),
        columns=columns,
        step=fitting(NUMBERS // columns, STEP),
        precision=precision(torch.float32),
    )


def _options(numbers: int, of_warp: int) -> dict[str, Any]:
    """How Triton compiles a kernel whose tile holds so many numbers: with warps enough that they
    stay in registers."""
    return {
        "num_warps": fitting(numbers // of_warp, 8, smallest=1),
        "num_stages": 3,
        "enable_fp_fusion": True,
    }
