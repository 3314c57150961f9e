"""The shapes at which the operator is measured, and random inputs of a shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from bilevel.grid import Grid

Inputs: TypeAlias = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Sets of queries, keys and values ``(N, H, W, M, D)``."""


class Shape(NamedTuple):
    """Feature maps and the attention on them."""

    batch: int
    size: int | tuple[int, int]
    """Height and width; an int is both."""
    regions: int
    """Regions on each axis."""
    topk: int
    heads: int
    head_dim: int = 32
    dtype: str = "float32"

    @property
    def grid(self) -> Grid:
        size = self.size
        return Grid((size, size) if isinstance(size, int) else size, self.regions)

    @property
    def queries(self) -> int:
        """Queries of all images and heads; there is a key for each."""
        return self.batch * prod(self.grid.spatial) * self.heads

    @property
    def keys_per_query(self) -> int:
        """Keys that one query attends to."""
        return self.topk * self.grid.region_tokens

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.itemsize


HALF = "bfloat16"

SHAPES = {
    "cpu": {
        "224, stage 1": Shape(8, 56, 7, 1, 2),
        "224, stage 2": Shape(8, 28, 7, 4, 4),
        "224, stage 3": Shape(8, 14, 7, 16, 8),
        "512, four routes": Shape(1, 128, 8, 4, 2),
        "1024, eight routes": Shape(1, 256, 16, 8, 2),
        "224, stage 1, bfloat16": Shape(8, 56, 7, 1, 2, dtype=HALF),
        "224, stage 2, bfloat16": Shape(8, 28, 7, 4, 4, dtype=HALF),
        "224, stage 3, bfloat16": Shape(8, 14, 7, 16, 8, dtype=HALF),
        "512, four routes, bfloat16": Shape(1, 128, 8, 4, 2, dtype=HALF),
    },
    "cuda": {
        "224, stage 1": Shape(128, 56, 7, 1, 2, dtype=HALF),
        "224, stage 2": Shape(128, 28, 7, 4, 4, dtype=HALF),
        "224, stage 3": Shape(128, 14, 7, 16, 8, dtype=HALF),
        "512, stage 1": Shape(16, 128, 8, 1, 2, dtype=HALF),
        "1024, stage 1": Shape(2, 256, 16, 1, 2, dtype=HALF),
        "1024, stage 2": Shape(2, 128, 16, 4, 4, dtype=HALF),
        "1024, stage 3": Shape(2, 64, 16, 16, 8, dtype=HALF),
        "1024, four routes": Shape(1, 256, 16, 4, 2, dtype=HALF),
        # An input for which users of the gather formulation ran out of memory (BiFormer, issue 21).
        "600 x 500, float16": Shape(1, (600, 500), 10, 4, 1, 20, "float16"),
        "600 x 500, float32": Shape(1, (600, 500), 10, 4, 1, 20, "float32"),
    },
}
"""By device and name, the most important first. A name starts with the pixels of the image: 224 for
classification, 512 for segmentation, 1024 for detection. Stages are BiFormer's; "routes" are the
regions that each query region attends to."""

CACHES = 4
"""Bytes of all sets of inputs together, in multiples of the level 2 cache."""


def inputs(shape: Shape, device: str, sets: int = 1) -> Inputs:
    """Random arrays, as views of fused projections."""
    dims = (shape.batch, *shape.grid.spatial, 3, shape.heads, shape.head_dim)
    dtype: torch.dtype = getattr(torch, shape.dtype)
    found = []
    for _ in range(sets):
        q, k, v = torch.randn(dims, device=device, dtype=dtype).unbind(3)
        found.append((q, k, v))
    return found


def sets_beyond_cache(shape: Shape, l2_bytes: int) -> int:
    """How many sets of inputs to rotate, so that the level 2 cache never holds the next one."""
    bytes_of_set = 3 * shape.queries * shape.head_dim * shape.itemsize
    return 1 + ceil(CACHES * l2_bytes / bytes_of_set)
