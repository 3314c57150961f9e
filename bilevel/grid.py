"""How an N-d grid of tokens splits into regions: integers only, no arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import index
from typing import NamedTuple

from bilevel import arguments
from bilevel.errors import ShapeError


class Axis(NamedTuple):
    """One axis of a grid: ``tokens`` tokens in ``regions`` regions of at most ``size`` tokens."""

    tokens: int
    regions: int
    size: int

    @property
    def uniform(self) -> bool:
        """Whether all its regions have the same size; False where torch traces for any size."""
        # Not the truth of the comparison: of symbolic sizes it would bind the trace to this one.
        return self.regions == 1 or (self.tokens % self.regions == 0) is True


@dataclass(frozen=True)
class Grid:
    """A token grid and its regions (BiFormer, section 3.2: an H x W map in S x S regions).

    Region ``i`` of ``s`` on an axis of ``n`` tokens covers the tokens
    ``i * n // s`` to ``(i + 1) * n // s``, the end excluded: sizes differ by at most one and
    no region is empty. Regions, and the tokens of one region, are counted in row-major order.

    Parameters
    ----------
    spatial
        Tokens on each axis, at least one axis, for example ``(56, 56)``.
    regions
        Regions on each axis; one int stands for every axis.

    Raises
    ------
    ShapeError
        If an axis is empty, if an axis has more regions than tokens or less than one, or if
        ``regions`` does not have one entry per axis.

    Examples
    --------
    >>> grid = Grid((56, 50), 7)
    >>> grid.num_regions, grid.region_shape, grid.region_tokens, grid.uniform
    (49, (8, 8), 64, False)
    >>> grid.sizes(1)
    (7, 7, 7, 7, 7, 7, 8)
    """

    spatial: tuple[int, ...]
    regions: tuple[int, ...]

    def __init__(self, spatial: Sequence[int], regions: int | Sequence[int] = 7) -> None:
        spatial = arguments.axes("spatial", spatial)
        regions = arguments.per_axis("regions", regions, len(spatial))
        if any(not 1 <= s <= n for n, s in zip(spatial, regions, strict=True)):
            raise ShapeError(
                f"expected 1 to n regions on an axis of n tokens, got regions {regions} on "
                f"spatial axes {spatial}; lower regions or enlarge the input"
            )
        object.__setattr__(self, "spatial", spatial)
        object.__setattr__(self, "regions", regions)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes, each with its tokens, its regions and the size of its largest region."""
        return tuple(map(Axis, self.spatial, self.regions, self.region_shape))

    @property
    def region_shape(self) -> tuple[int, ...]:
        """Tokens of the largest region on each axis."""
        # Of negative numbers, ONNX rounds quotients the other way.
        return tuple((n + s - 1) // s for n, s in zip(self.spatial, self.regions, strict=True))

    @property
    def num_regions(self) -> int:
        """R, the number of regions."""
        return prod(self.regions)

    @property
    def region_tokens(self) -> int:
        """T, the tokens of the largest region, to which every region is padded."""
        return prod(self.region_shape)

    @property
    def uniform(self) -> bool:
        """Whether all regions have the same size, so that nothing is padded.

        False where torch traces for any size: what is traced masks the padding there may be.
        """
        return all(axis.uniform for axis in self.axes)

    @property
    def static(self) -> bool:
        """Whether sizes are numbers; False where torch traces for any size."""
        return all((n == n + 0) is True for n in self.spatial)

    def sizes(self, axis: int) -> tuple[int, ...]:
        """Tokens of each region on one axis."""
        n, s = self.spatial[axis], self.regions[axis]
        return tuple((i + 1) * n // s - i * n // s for i in range(s))

    def __str__(self) -> str:
        return f"{self.regions} regions on {self.spatial} tokens"


def fit_regions(spatial: Sequence[int], regions: int | Sequence[int]) -> tuple[int, ...]:
    """``regions`` lowered, axis by axis, to the tokens there are.

    Where that lowers them, a trace of torch is bound to the size: regions are counts in it.

    >>> fit_regions((4, 16), 7)
    (4, 7)
    """
    wanted = arguments.per_axis("regions", regions, len(spatial))
    return tuple(s if s <= n else index(n) for n, s in zip(spatial, wanted, strict=True))
