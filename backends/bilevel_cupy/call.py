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

CUDA_TYPES = {
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
}
"""The types of CUDA C++ for the dtypes of arrays."""

_LAYOUT = np.dtype(
    [
        *((name, np.int64) for name in ("image", "token", "head", "channel")),
        ("channels", np.int32),
        ("vectorized", np.int32),
    ],
    align=True,
)
_SIDE = np.dtype([(name, np.int32) for name in ("regions", "region_tokens", "tokens")], align=True)
_ARRAYS = ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v")
_CALL = np.dtype(
    [
        *((name, _LAYOUT) for name in _ARRAYS),
        ("scale", np.float64),
        *((name, _SIDE) for name in ("queries", "keys")),
        *((name, np.int32) for name in ("heads", "topk", "group", "tiles")),
    ],
    align=True,
)
MAX_AXES = 8
"""Most axes of a grid."""
_AXES = np.dtype(
    [("count", np.int32), ("tokens", np.int32, MAX_AXES), ("regions", np.int32, MAX_AXES)],
    align=True,
)
"""These as ``kernels/call.cuh`` and ``kernels/token_table.cu`` have them."""


@dataclass(frozen=True)
class Call:
    """Arrays and grids of one call; arrays as :func:`uniform_token_stride` makes them."""

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
        """Those of keys or of values, whichever have more."""
        return max(self.k.shape[-1], self.v.shape[-1])

    @property
    def cuda_type(self) -> str:
        """The type of the arrays' elements in kernels."""
        return CUDA_TYPES[str(self.q.dtype)]

    @property
    def accum_dtype(self) -> Any:
        """The dtype of sums and logarithms."""
        return np.float64 if self.q.dtype.itemsize == 8 else np.float32

    def by_value(self, tiles: Tiles, **others: Array) -> np.ndarray[Any, Any]:
        """The structure that kernels take, with the layouts of other arrays by their names."""
        call = np.zeros(1, _CALL)
        for name, x in {"q": self.q, "k": self.k, "v": self.v, **others}.items():
            call[name] = _layout(x)
        call["scale"] = self.scale
        call["queries"], call["keys"] = _side(self.q_grid), _side(self.k_grid)
        call["heads"], call["topk"] = self.heads, self.topk
        call["group"], call["tiles"] = tiles.group, tiles.per_image
        return call


def axes_by_value(grid: Grid) -> np.ndarray[Any, Any]:
    """The structure ``Axes`` of ``kernels/token_table.cu``."""
    axes = np.zeros(1, _AXES)
    axes["count"] = grid.ndim
    axes["tokens"][0, : grid.ndim] = grid.spatial
    axes["regions"][0, : grid.ndim] = grid.regions
    return axes


def uniform_token_stride(xp: Any, x: Array) -> Array:
    """``x`` ``(N, *spatial, M, D)`` itself if one stride leads from each token to the next in
    row-major order, as in any view of a projection; else a copy, as of a crop."""
    return xp.ascontiguousarray(x) if _token_stride(x) is None else x


def _layout(x: Array) -> tuple[int, ...]:
    token = _token_stride(x)
    assert token is not None, "expected tokens equally far from each other"
    image, head, channel = (x.strides[axis] // x.itemsize for axis in (0, -2, -1))
    channels, vector = x.shape[-1], 16 // x.itemsize
    steps = (image, token, head, channels)
    vectorized = channel == 1 and all(step % vector == 0 for step in steps)
    return image, token, head, channel, channels, vectorized


def _token_stride(x: Array) -> int | None:
    """The stride from each token to the next, in elements; None if it is not the same for all."""
    strides = [stride // x.itemsize for stride in x.strides[1:-2]]
    axes = [(n, s) for n, s in zip(x.shape[1:-2], strides, strict=True) if n > 1]
    token = axes[-1][1] if axes else 0
    uniform = all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(axes))
    return token if uniform else None


def _side(grid: Grid) -> tuple[int, int, int]:
    return grid.num_regions, grid.region_tokens, prod(grid.spatial)
