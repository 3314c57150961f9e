"""The routes of a call: kernels for the means of regions, and for the best of their products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton import memory
from bilevel_triton.call import map_of, precision, uniform_token_stride
from bilevel_triton.kernels.routing import average_regions, choose_regions
from bilevel_triton.tiles import (
    CHANNEL_STEP,
    MAX_ROUTES,
    Axes,
    MeanTile,
    ScoreTile,
    Side,
    mean_tile,
    score_tile,
    side,
)


class MeanMeta(NamedTuple):
    """The constants that the kernel for means is compiled for."""

    regions: tuple[Axes, Axes]
    ragged: bool
    """As in :class:`~bilevel_triton.call.AttentionMeta`."""
    head_dim: int
    num_channels: int
    """``M * D``, the channels of all heads."""
    padded_channels: int
    """Numbers of a mean: the channels, and zeros."""
    tile_regions: int
    tile_rows: int
    tile_channels: int
    """Fields of :class:`~bilevel_triton.tiles.MeanTile`."""


class ScoreShape(NamedTuple):
    """The numbers of one launch of the kernel that chooses routes."""

    q_regions: int
    k_regions: int
    padded_channels: int
    """Numbers of a mean."""
    topk: int


class ScoreMeta(NamedTuple):
    """The constants that the kernel that chooses routes is compiled for."""

    tile_rows: int
    tile_columns: int
    tile_channels: int
    """Fields of :class:`~bilevel_triton.tiles.ScoreTile`."""
    precision: str
    """As in :class:`~bilevel_triton.call.AttentionMeta`, for means, which are float32."""


def find_routes(
    q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int
) -> tuple[Tensor, Tensor]:
    """Equations 4 and 5 of BiFormer: the key regions, best first, int64 ``(N, R, k)``, and their
    scores, float32; both in row-major order.

    Where there are more key regions than a tile holds, or too many routes to choose them one by
    one, torch multiplies and sorts; the means are the kernel's all the same.
    """
    q_mean, k_mean = region_means(q, k, q_grid, k_grid)
    tile = score_tile(k_grid.num_regions)
    if tile is None or topk > MAX_ROUTES:
        index, score = TORCH.route(q_mean, k_mean, topk)
        assert score is not None  # only routes that a caller gives have none
        return index.contiguous(), score.contiguous()
    return best_regions(q_mean, k_mean, topk, tile)


def region_means(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid) -> tuple[Tensor, Tensor]:
    """The means of the regions of queries and of keys, float32 ``(N, R, padded_channels)``: zeros
    follow the ``M * D`` channels, so that products need no mask."""
    sides = queries, keys = side(q_grid), side(k_grid)
    images, (heads, head_dim) = q.shape[0], q.shape[-2:]
    tile = mean_tile(queries, keys, heads * head_dim)
    meta = _mean_meta(queries, keys, heads, head_dim, tile)
    q_mean, k_mean = (
        memory.empty(q, (images, s.num_regions, meta.padded_channels), torch.float32) for s in sides
    )
    region_tiles = sum(-(-s.num_regions // tile.regions) for s in sides)
    channel_tiles = -(-meta.padded_channels // tile.channels)
    average_regions[(images * region_tiles * channel_tiles,)](
        map_of(uniform_token_stride(q)),
        map_of(uniform_token_stride(k)),
        q_mean,
        k_mean,
        (queries.spatial, keys.spatial),
        meta,
        num_warps=tile.warps,
        enable_fp_fusion=True,
    )
    return q_mean, k_mean


def _mean_meta(queries: Side, keys: Side, heads: int, head_dim: int, tile: MeanTile) -> MeanMeta:
    num_channels = heads * head_dim
    return MeanMeta(
        regions=(queries.regions, keys.regions),
        ragged=not (queries.uniform and keys.uniform),
        head_dim=head_dim,
        num_channels=num_channels,
        padded_channels=CHANNEL_STEP * -(-num_channels // CHANNEL_STEP),
        tile_regions=tile.regions,
        tile_rows=tile.rows,
        tile_channels=tile.channels,
    )


def best_regions(
    q_mean: Tensor, k_mean: Tensor, topk: int, tile: ScoreTile
) -> tuple[Tensor, Tensor]:
    """The routes between regions with the means ``(N, R, padded_channels)`` and
    ``(N, Rk, padded_channels)``."""
    images, q_regions, padded_channels = q_mean.shape
    index, score = (
        memory.empty(q_mean, (images, q_regions, topk), dtype)
        for dtype in (torch.int64, torch.float32)
    )
    num_tiles = -(-q_regions // tile.rows)
    choose_regions[(images * num_tiles,)](
        q_mean,
        k_mean,
        index,
        score,
        num_tiles,
        ScoreShape(q_regions, k_mean.shape[1], padded_channels, topk),
        ScoreMeta(*tile, precision(torch.float32)),
        num_warps=tile.warps,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return index, score
