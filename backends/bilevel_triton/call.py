"""A call of the operator, as its kernels see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bilevel.grid import Grid
from bilevel_triton.tiles import Side, Tiles, side

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Call:
    """Arrays and grids of one call."""

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

    def constants(self, tiles: Tiles) -> dict[str, Any]:
        """What all kernels of the call are compiled for."""
        head_dim, value_dim = self.k.shape[-1], self.v.shape[-1]
        return {
            "Q_SPLIT": self.queries.split,
            "K_SPLIT": self.keys.split,
            "RAGGED": not (self.queries.uniform and self.keys.uniform),
            "GROUP": tiles.group,
            "PER": tiles.per,
            "WHOLE": tiles.whole,
            "HEAD_DIM": head_dim,
            "VALUE_DIM": value_dim,
            "BLOCK_D": block_of(head_dim),
            "BLOCK_V": block_of(value_dim),
            "PRECISION": precision(self.q.dtype),
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
            "enable_fp_fusion": True,
        }


def block_of(channels: int) -> int:
    """The smallest power of two that has so many, 16 at least: what a matrix product takes."""
    return max(16, 1 << (channels - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: exactly, unless the caller lets torch use TF32."""
    if dtype != torch.float32:
        return "ieee"
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def in_rows(x: Tensor) -> Tensor:
    """``(N, *spatial, M, D)`` with its tokens equally far from each other, as in any view of a
    projection; a copy where they are not, as in a crop."""
    return x.contiguous() if _token_stride(x) is None else x


def strides(x: Tensor) -> tuple[int, int, int, int]:
    """The strides of ``(N, *spatial, M, D)`` as of ``(N, tokens, M, D)``."""
    apart = _token_stride(x)
    assert apart is not None, "expected tokens equally far from each other"
    return x.stride(0), apart, x.stride(-2), x.stride(-1)


def _token_stride(x: Tensor) -> int | None:
    axes = [(n, s) for n, s in zip(x.shape[1:-2], x.stride()[1:-2], strict=True) if n > 1]
    apart = expected = axes[-1][1] if axes else 0
    for size, stride in reversed(axes):
        if stride != expected:
            return None
        expected *= size
    return apart
