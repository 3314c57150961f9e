"""A call of the operator, as its kernels see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel_triton.tiles import Side, Tiles, side


class Map(NamedTuple):
    """Tokens of images: where they begin, and how far they are apart."""

    at: Tensor
    strides: tuple[int, int, int, int]
    """Of images, tokens, heads and channels."""


class Shape(NamedTuple):
    """What kernels are told at each launch."""

    sizes: tuple[tuple[int, int, int], tuple[int, int, int]]
    """Tokens on the axes of queries and of keys."""
    topk: int
    heads: int
    scale: float


class How(NamedTuple):
    """What kernels are compiled for."""

    split: tuple[tuple[int, int, int], tuple[int, int, int]]
    """Regions on the axes of queries and of keys."""
    ragged: bool
    """Whether regions of a side differ in size."""
    group: int
    per: int
    kept_lanes: int
    walked_lanes: int
    whole: bool
    """As :class:`~bilevel_triton.tiles.Tiles` has them."""
    head_dim: int
    value_dim: int
    block_d: int
    block_v: int
    """Channels of keys and of values; the powers of two that have room for them."""
    precision: str
    """``"ieee"`` or ``"tf32"``, for products of float32."""


@dataclass(frozen=True)
class Call:
    """Arrays and grids of one call; tokens equally far from each other, see :func:`in_rows`."""

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
        """Of the wider of keys and values."""
        return max(self.k.shape[-1], self.v.shape[-1])

    @property
    def maps(self) -> tuple[Map, Map, Map]:
        """q, k and v."""
        return map_of(self.q), map_of(self.k), map_of(self.v)

    @property
    def shape(self) -> Shape:
        return Shape((self.queries.sizes, self.keys.sizes), self.topk, self.heads, self.scale)

    def how(self, tiles: Tiles) -> How:
        """What a kernel with these tiles is compiled for."""
        head_dim, value_dim = self.k.shape[-1], self.v.shape[-1]
        return How(
            split=(self.queries.split, self.keys.split),
            ragged=not (self.queries.uniform and self.keys.uniform),
            group=tiles.group,
            per=tiles.per,
            kept_lanes=tiles.kept_lanes,
            walked_lanes=tiles.walked_lanes,
            whole=tiles.whole,
            head_dim=head_dim,
            value_dim=value_dim,
            block_d=block_of(head_dim),
            block_v=block_of(value_dim),
            precision=precision(self.q.dtype),
        )


def options(tiles: Tiles) -> dict[str, Any]:
    """How Triton compiles: products and sums may be rounded once together."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}


def block_of(channels: int) -> int:
    """The smallest power of two that has so many, 16 at least: what a matrix product takes."""
    return max(16, 1 << (channels - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: exactly, unless the caller lets torch use TF32."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def in_rows(x: Tensor) -> Tensor:
    """``(N, *spatial, M, D)`` with its tokens equally far from each other, as in any view of a
    projection; a copy where they are not, as in a crop."""
    return x.contiguous() if _token_stride(x) is None else x


def map_of(x: Tensor) -> Map:
    """``(N, *spatial, M, D)`` as kernels read and write it."""
    apart = _token_stride(x)
    assert apart is not None, "expected tokens equally far from each other"
    return Map(x, (x.stride(0), apart, x.stride(-2), x.stride(-1)))


def _token_stride(x: Tensor) -> int | None:
    axes = [(n, s) for n, s in zip(x.shape[1:-2], x.stride()[1:-2], strict=True) if n > 1]
    apart = expected = axes[-1][1] if axes else 0
    for size, stride in reversed(axes):
        if stride != expected:
            return None
        expected *= size
    return apart
