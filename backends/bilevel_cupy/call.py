"""A call of the operator, as its kernels see it: arrays, and structures that go by value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Array
from bilevel_cupy.tiles import Tiles

NUMBERS = {
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
}
"""The dtypes of arrays, and what kernels call them."""

_MAP = np.dtype(
    [
        *((name, np.int64) for name in ("image", "token", "head", "channel")),
        ("channels", np.int32),
        ("vectors", np.int32),
    ],
    align=True,
)
_SIDE = np.dtype([(name, np.int32) for name in ("regions", "places", "tokens")], align=True)
_MAPS = ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v")
_CALL = np.dtype(
    [
        *((name, _MAP) for name in _MAPS),
        ("scale", np.float64),
        *((name, _SIDE) for name in ("queries", "keys")),
        *((name, np.int32) for name in ("heads", "topk", "group", "tiles")),
    ],
    align=True,
)
MAX_AXES = 8
_AXES = np.dtype(
    [("count", np.int32), ("tokens", np.int32, MAX_AXES), ("regions", np.int32, MAX_AXES)],
    align=True,
)
"""These as ``kernels/call.cuh`` and ``kernels/routes.cu`` have them."""


@dataclass(frozen=True)
class Call:
    """Arrays and grids of one call; tokens equally far from each other, see :func:`in_rows`."""

    q: Array
    k: Array
    v: Array
    index: Array
    """int32, in row-major order."""
    q_grid: Grid
    k_grid: Grid
    scale: float

    @property
    def images(self) -> int:
        return self.q.shape[0]

    @property
    def heads(self) -> int:
        return self.q.shape[-2]

    @property
    def topk(self) -> int:
        return self.index.shape[-1]

    @property
    def channels(self) -> int:
        """Of the wider of keys and values."""
        return max(self.k.shape[-1], self.v.shape[-1])

    @property
    def number(self) -> str:
        """What kernels call the dtype."""
        return NUMBERS[str(self.q.dtype)]

    @property
    def sum_dtype(self) -> Any:
        """Of sums and logarithms."""
        return np.float64 if self.q.dtype.itemsize == 8 else np.float32

    def by_value(self, tiles: Tiles, **others: Array) -> np.ndarray[Any, Any]:
        """What kernels are told, with the maps of other arrays by their names."""
        call = np.zeros(1, _CALL)
        for name, x in {"q": self.q, "k": self.k, "v": self.v, **others}.items():
            call[name] = _map(x)
        call["scale"] = self.scale
        call["queries"], call["keys"] = _side(self.q_grid), _side(self.k_grid)
        call["heads"], call["topk"] = self.heads, self.topk
        call["group"], call["tiles"] = tiles.group, tiles.per_image
        return call


def axes_by_value(grid: Grid) -> np.ndarray[Any, Any]:
    axes = np.zeros(1, _AXES)
    axes["count"] = grid.ndim
    axes["tokens"][0, : grid.ndim] = grid.spatial
    axes["regions"][0, : grid.ndim] = grid.regions
    return axes


def in_rows(xp: Any, x: Array) -> Array:
    """``(N, *spatial, M, D)`` with its tokens equally far from each other, as in any view of a
    projection; a copy where they are not, as in a crop."""
    return xp.ascontiguousarray(x) if _token_stride(x) is None else x


def _map(x: Array) -> tuple[int, ...]:
    apart = _token_stride(x)
    assert apart is not None, "expected tokens equally far from each other"
    image, head, channel = (x.strides[axis] // x.itemsize for axis in (0, -2, -1))
    channels, vector = x.shape[-1], 16 // x.itemsize
    steps = (image, apart, head, channels)
    vectors = channel == 1 and all(step % vector == 0 for step in steps)
    return image, apart, head, channel, channels, vectors


def _token_stride(x: Array) -> int | None:
    """How far tokens are apart, in numbers; None if not equally far."""
    strides = [stride // x.itemsize for stride in x.strides[1:-2]]
    axes = [(n, s) for n, s in zip(x.shape[1:-2], strides, strict=True) if n > 1]
    apart = axes[-1][1] if axes else 0
    even = all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(axes))
    return apart if even else None


def _side(grid: Grid) -> tuple[int, int, int]:
    return grid.num_regions, grid.region_tokens, prod(grid.spatial)
