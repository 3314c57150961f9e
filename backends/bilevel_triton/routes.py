"""The routes of a call: kernels for the means of regions, and for the best of their products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton import memory
from bilevel_triton.call import in_rows, map_of, precision
from bilevel_triton.kernels.routes import average_regions, choose_regions
from bilevel_triton.tiles import MOST_ROUTES, STEP, ScoreTile, mean_tile, score_tile, side


class Shape(NamedTuple):
    """What the kernel for means is told at each launch, as :class:`~bilevel_triton.call.Shape`."""

    sizes: tuple[tuple[int, int, int], tuple[int, int, int]]


class Averaging(NamedTuple):
    """What the kernel for means is compiled for."""

    split: tuple[tuple[int, int, int], tuple[int, int, int]]
    ragged: bool
    """As :class:`~bilevel_triton.call.How` has them."""
    head_dim: int
    channels: int
    """Of all heads."""
    row: int
    """Numbers of a mean: the channels, and zeros."""
    group: int
    lanes: int
    block: int
    """As :class:`~bilevel_triton.tiles.MeanTile` has them."""


class Sizes(NamedTuple):
    """What the kernel that chooses is told at each launch."""

    q_regions: int
    k_regions: int
    row: int
    """Numbers of a mean."""
    topk: int


class Choosing(NamedTuple):
    """What the kernel that chooses is compiled for."""

    rows: int
    columns: int
    step: int
    """As :class:`~bilevel_triton.tiles.ScoreTile` has them."""
    precision: str
    """As :class:`~bilevel_triton.call.How` has it: that of means, which are float32."""


def routes(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int) -> tuple[Tensor, Tensor]:
    """Equations 4 and 5 of BiFormer: the key regions, best first, int64 ``(N, R, k)``, and their
    scores, float32; both in row-major order.

    Where there are more key regions than a tile holds, or more routes than are worth choosing one
    by one, torch multiplies and sorts; the means are the kernel's all the same.
    """
    q_mean, k_mean = means(q, k, q_grid, k_grid)
    tile = score_tile(k_grid.num_regions)
    if tile is None or topk > MOST_ROUTES:
        index, score = TORCH.route(q_mean, k_mean, topk)
        assert score is not None  # only routes that a caller gives have none
        return index.contiguous(), score.contiguous()
    return best(q_mean, k_mean, topk, tile)


def means(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid) -> tuple[Tensor, Tensor]:
    """The means of the regions of queries and of keys, float32 ``(N, R, row)``: zeros follow the
    ``M * D`` channels, so that products need no mask."""
    sides = queries, keys = side(q_grid), side(k_grid)
    images, (heads, head_dim) = q.shape[0], q.shape[-2:]
    channels = heads * head_dim
    tile = mean_tile(queries, keys, channels)
    how = Averaging(
        split=(queries.split, keys.split),
        ragged=not (queries.uniform and keys.uniform),
        head_dim=head_dim,
        channels=channels,
        row=STEP * -(-channels // STEP),
        group=tile.group,
        lanes=tile.lanes,
        block=tile.block,
    )
    q_mean, k_mean = (memory.empty(q, (images, s.regions, how.row), torch.float32) for s in sides)
    groups = sum(-(-s.regions // tile.group) for s in sides)
    average_regions[(images * groups * -(-how.row // tile.block),)](
        map_of(in_rows(q)),
        map_of(in_rows(k)),
        q_mean,
        k_mean,
        Shape((queries.sizes, keys.sizes)),
        how,
        num_warps=tile.warps,
        enable_fp_fusion=True,
    )
    return q_mean, k_mean


def best(q_mean: Tensor, k_mean: Tensor, topk: int, tile: ScoreTile) -> tuple[Tensor, Tensor]:
    """The routes between regions with the means ``(N, R, row)`` and ``(N, Rk, row)``."""
    images, regions, row = q_mean.shape
    index, score = (
        memory.empty(q_mean, (images, regions, topk), dtype)
        for dtype in (torch.int64, torch.float32)
    )
    tiles = -(-regions // tile.rows)
    choose_regions[(images * tiles,)](
        q_mean,
        k_mean,
        index,
        score,
        tiles,
        Sizes(regions, k_mean.shape[1], row, topk),
        Choosing(*tile, precision(torch.float32)),
        num_warps=tile.warps,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return index, score
