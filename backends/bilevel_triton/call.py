"""A call of routed attention, as its kernels see it.

Kernels take two values beside arrays: a *shape*, the numbers of one launch, and a *meta*, the
constants they are compiled for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel_triton.tiles import Axes, Side, Tiles, side


class Map(NamedTuple):
    """A map of tokens ``(N, *spatial, M, D)``, as kernels read and write it."""

    ptr: Tensor
    strides: tuple[int, int, int, int]
    """Of images, tokens, heads and channels, in elements."""


class AttentionShape(NamedTuple):
    """The numbers of one launch of a kernel for attention."""

    spatial: tuple[Axes, Axes]
    """Tokens on the axes of queries and of keys."""
    topk: int
    heads: int
    scale: float


class AttentionMeta(NamedTuple):
    """The constants that a kernel for attention is compiled for."""

    regions: tuple[Axes, Axes]
    """Regions on the axes of queries and of keys."""
    ragged: bool
    """Whether regions of a side differ in size."""
    group_size: int
    stationary_rows: int
    regions_per_step: int
    streamed_rows: int
    region_fits: bool
    """Fields of :class:`~bilevel_triton.tiles.Tiles`."""
    head_dim: int
    value_dim: int
    """Channels per head of keys and of values."""
    head_dim_rounded: int
    value_dim_rounded: int
    """The same, rounded up by :func:`rounded`."""
    precision: str
    """``"ieee"`` or ``"tf32"``, for products of float32."""


@dataclass(frozen=True)
class Call:
    """The arrays and grids of one call; q, k and v have :func:`uniform_token_stride`."""

    q: Tensor
    k: Tensor
    v: Tensor
    index: Tensor
    q_regions: tuple[int, ...]
    k_regions: tuple[int, ...]
    scale: float

    @cached_property
    def queries(self) -> Side:
        return side(Grid(self.q.shape[1:-2], self.q_regions))

    @cached_property
    def keys(self) -> Side:
        return side(Grid(self.k.shape[1:-2], self.k_regions))

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
        """Channels per head of keys or of values, whichever have more."""
        return max(self.k.shape[-1], self.v.shape[-1])

    @property
    def maps(self) -> tuple[Map, Map, Map]:
        """q, k and v."""
        return map_of(self.q), map_of(self.k), map_of(self.v)

    @property
    def shape(self) -> AttentionShape:
        spatial = (self.queries.spatial, self.keys.spatial)
        return AttentionShape(spatial, self.topk, self.heads, self.scale)

    def meta(self, tiles: Tiles) -> AttentionMeta:
        """The constants of a kernel with these tiles."""
        head_dim, value_dim = self.k.shape[-1], self.v.shape[-1]
        return AttentionMeta(
            regions=(self.queries.regions, self.keys.regions),
            ragged=not (self.queries.uniform and self.keys.uniform),
            group_size=tiles.group_size,
            stationary_rows=tiles.stationary_rows,
            regions_per_step=tiles.regions_per_step,
            streamed_rows=tiles.streamed_rows,
            region_fits=tiles.region_fits,
            head_dim=head_dim,
            value_dim=value_dim,
            head_dim_rounded=rounded(head_dim),
            value_dim_rounded=rounded(value_dim),
            precision=precision(self.q.dtype),
        )


def options(tiles: Tiles) -> dict[str, Any]:
    """Triton's options for a kernel; a product and a sum may be rounded once together."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}


def rounded(channels: int) -> int:
    """The next power of two, and 16 or more: the width of a matrix product."""
    return max(16, 1 << (channels - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: exactly, unless the caller lets torch use TF32."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def uniform_token_stride(x: Tensor) -> Tensor:
    """``(N, *spatial, M, D)`` with one stride between tokens in row-major order, as any view of a
    projection has; a copy where there is none, as in a crop."""
    return x.contiguous() if _token_stride(x) is None else x


def map_of(x: Tensor) -> Map:
    """``(N, *spatial, M, D)`` as a map; it must have a :func:`uniform_token_stride`."""
    stride = _token_stride(x)
    assert stride is not None, "expected one stride between tokens"
    return Map(x, (x.stride(0), stride, x.stride(-2), x.stride(-1)))


def _token_stride(x: Tensor) -> int | None:
    axes = [(n, s) for n, s in zip(x.shape[1:-2], x.stride()[1:-2], strict=True) if n > 1]
    token_stride = expected = axes[-1][1] if axes else 0
    for size, stride in reversed(axes):
        if stride != expected:
            return None
        expected *= size
    return token_stride
