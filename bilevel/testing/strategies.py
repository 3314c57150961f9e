"""What the properties are tried on: cases, and a Hypothesis strategy that draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from bilevel.grid import Grid
from bilevel.protocol import Array, Backend
from bilevel.testing.arrays import Home, NumpyArray, dtypes_of, from_numpy, home_of, namespace


@dataclass(frozen=True)
class Case:
    """One call of :func:`bilevel.bra`: shapes, dtype and the seed of the numbers."""

    spatial: tuple[int, ...]
    regions: tuple[int, ...]
    kv_spatial: tuple[int, ...]
    kv_regions: tuple[int, ...]
    topk: int = 1
    batch: int = 1
    heads: int = 1
    head_dim: int = 1
    value_dim: int = 1
    dtype: str = "float32"
    spread: float = 1.0
    """Standard deviation of queries and keys; scores grow with its square."""
    scale: float | None = None
    """What :func:`bilevel.bra` gets as ``scale``."""
    one_projection: bool = False
    """Whether k and v, and q if it has their spatial axes, are views of one array."""
    seed: int = 0

    @property
    def q_grid(self) -> Grid:
        """The grid of the queries."""
        return Grid(self.spatial, self.regions)

    @property
    def k_grid(self) -> Grid:
        """The grid of keys and values."""
        return Grid(self.kv_spatial, self.kv_regions)

    @property
    def factor(self) -> float:
        """The factor on the scores that ``scale`` stands for."""
        return float(self.head_dim**-0.5) if self.scale is None else self.scale

    @property
    def keys(self) -> int:
        """L, the keys of one query, padding included."""
        return self.topk * self.k_grid.region_tokens

    def rng(self) -> np.random.Generator:
        """A fresh generator: the same numbers at each call."""
        return np.random.default_rng(self.seed)


class Inputs(NamedTuple):
    """Arrays of a case in the library of a backend."""

    q: Array
    """``(N, *spatial, M, D)``"""
    k: Array
    """``(N, *kv_spatial, M, D)``"""
    v: Array
    """``(N, *kv_spatial, M, Dv)``"""


def inputs(backend: Backend, case: Case) -> Inputs:
    """Normally distributed q, k and v; NumPy arrays are read-only."""
    home, rng = home_of(backend), case.rng()
    n, m, d = case.batch, case.heads, case.head_dim
    q = case.spread * rng.standard_normal((n, *case.spatial, m * d))
    k = case.spread * rng.standard_normal((n, *case.kv_spatial, m * d))
    v = rng.standard_normal((n, *case.kv_spatial, m * case.value_dim))
    projections = [[q, k, v]] if case.spatial == case.kv_spatial else [[q], [k, v]]
    if not case.one_projection:
        projections = [[q], [k], [v]]
    found = [view for parts in projections for view in _views(parts, case, home)]
    return Inputs(*found)


def _views(parts: list[NumpyArray], case: Case, home: Home) -> list[Array]:
    """The parts as views of one array that holds them side by side on its last axis."""
    whole = from_numpy(np.concatenate(parts, axis=-1), home, case.dtype)
    ends = np.cumsum([part.shape[-1] for part in parts]).tolist()
    return [
        namespace(home.library).reshape(
            whole[..., end - part.shape[-1] : end],
            (*part.shape[:-1], case.heads, part.shape[-1] // case.heads),
        )
        for part, end in zip(parts, ends, strict=True)
    ]


@st.composite
def cases(draw: st.DrawFn, backend: Backend) -> Case:
    """Cases that ``backend`` takes, small ones: an example takes milliseconds.

    Grids are 1-D to 3-D, ragged or uniform, and keys may have another grid than queries; arrays
    are contiguous or views of one projection, of 0 to 3 images.
    """
    spatial, regions = draw(_grids())
    crossed = draw(st.booleans())
    kv_spatial, kv_regions = draw(_grids()) if crossed else (spatial, regions)
    num_regions = Grid(kv_spatial, kv_regions).num_regions
    head_dim = draw(st.integers(1, 8))
    return Case(
        spatial=spatial,
        regions=regions,
        kv_spatial=kv_spatial,
        kv_regions=kv_regions,
        topk=draw(st.integers(1, num_regions) | st.just(num_regions)),
        batch=draw(st.sampled_from((1, 2, 3, 0))),
        heads=draw(st.integers(1, 3)),
        head_dim=head_dim,
        value_dim=draw(st.just(head_dim) | st.integers(1, 8)),
        dtype=draw(st.sampled_from(dtypes_of(backend))),
        spread=draw(st.sampled_from((1.0, 16.0))),
        scale=draw(st.sampled_from((None, 0.25))),
        one_projection=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


LONGEST = {1: 24, 2: 8, 3: 4}
"""Most tokens on an axis, by the number of axes."""


@st.composite
def _grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial axes and regions; one region, or one token in each, more often than by chance."""
    ndim = draw(st.integers(1, 3))
    spatial, regions = [], []
    for _ in range(ndim):
        tokens = draw(st.integers(1, LONGEST[ndim]))
        spatial.append(tokens)
        regions.append(draw(st.integers(1, tokens) | st.sampled_from((1, tokens))))
    return tuple(spatial), tuple(regions)
