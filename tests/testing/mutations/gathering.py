"""Broken gather and key_mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel import Backend, Grid
from bilevel.testing import arrays
from tests.testing.mutations.common import Array, converted, dtype_name


def attends_to_all_regions(b: Backend) -> Backend:
    """Dense attention that passes for routed attention."""

    def every(index: Array, regions: int) -> Array:
        return converted(b, np.broadcast_to(np.arange(regions), (*index.shape[:2], regions)))

    return replace(
        b,
        gather=lambda x, index: b.gather(x, every(index, x.shape[1])),
        key_mask=lambda index, grid: b.key_mask(every(index, grid.num_regions), grid),
    )


def gathers_the_next_region(b: Backend) -> Backend:
    return replace(b, gather=lambda x, index: b.gather(x, (index + 1) % x.shape[1]))


def gathers_by_the_first_image(b: Backend) -> Backend:
    return replace(b, gather=lambda x, index: b.gather(x, index[:1] + 0 * index))


def gathers_by_one_hot_products(b: Backend) -> Backend:
    """Right for finite tokens, though zero times NaN is NaN."""

    def gather(x: Array, index: Array) -> Array:
        n, regions, t, m, d = x.shape
        one_hot = np.eye(regions)[arrays.to_numpy(index)]
        one_hot = one_hot.reshape(n, index.shape[1] * index.shape[2], regions)
        with np.errstate(invalid="ignore"):
            rows = converted(b, one_hot, dtype_name(x)) @ x.reshape(n, regions, t * m * d)
        return rows.reshape(n, index.shape[1], index.shape[2] * t, m, d)

    return replace(b, gather=gather)


def gathers_by_remembered_routes(b: Backend) -> Backend:
    """A cache whose key is the shape."""
    seen: dict[tuple[int, ...], Array] = {}

    def gather(x: Array, index: Array) -> Array:
        return b.gather(x, seen.setdefault((*index.shape, x.shape[1]), index))

    return replace(b, gather=gather)


def key_mask_hides_nothing(b: Backend) -> Backend:
    def key_mask(index: Array, grid: Grid) -> Array:
        mask = b.key_mask(index, grid)
        return mask | ~mask

    return replace(b, key_mask=key_mask)
