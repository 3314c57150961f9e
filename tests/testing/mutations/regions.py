"""Broken partition, merge and means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel import Backend, Grid
from bilevel.testing import arrays
from tests.testing.mutations.common import Array, converted, dtype_name


def regions_of_fixed_size(b: Backend) -> Backend:
    """ceil(n / s) tokens in every region but the last."""

    def partition(x: Array, grid: Grid) -> Array:
        values = arrays.to_numpy(x)
        for i, (tokens, regions, size) in enumerate(grid.axes, start=1):
            pad = [(0, 0)] * values.ndim
            pad[i] = (0, regions * size - tokens)
            values = np.pad(values, pad)
        whole = Grid(values.shape[1:-2], grid.regions)
        return b.partition(converted(b, values, dtype_name(x)), whole)

    return replace(b, partition=partition)


def padding_repeats_the_last_token(b: Backend) -> Backend:
    def partition(x: Array, grid: Grid) -> Array:
        out = arrays.to_numpy(b.partition(x, grid)).copy()
        real = arrays.to_numpy(b.partition(x * 0 + 1, grid)) != 0
        last = arrays.to_numpy(x).reshape(x.shape[0], -1, *x.shape[-2:])[:, -1]
        out = np.where(real, out, last[:, None, None])
        return converted(b, out, dtype_name(x))

    return replace(b, partition=partition)


def regions_in_column_major_order(b: Backend) -> Backend:
    def order(grid: Grid) -> list[int]:
        return np.arange(grid.num_regions).reshape(grid.regions).ravel(order="F").tolist()

    return replace(b, partition=lambda x, grid: b.partition(x, grid)[:, order(grid)])


def merge_transposes_axes(b: Backend) -> Backend:
    def merge(x: Array, grid: Grid) -> Array:
        order = np.arange(grid.num_regions).reshape(grid.regions).ravel(order="F")
        return b.merge(x[:, order.tolist()], grid)

    return replace(b, merge=merge)


def padding_counts_in_the_mean(b: Backend) -> Backend:
    def summarize(x: Array, grid: Grid) -> Array:
        mean = b.summarize(x, grid)
        real = arrays.to_numpy(b.partition(x * 0 + 1, grid))[:, :, :, 0, 0].sum(-1)
        share = real / grid.region_tokens
        return mean * converted(b, share[:, :, None], dtype_name(mean))

    return replace(b, summarize=summarize)
