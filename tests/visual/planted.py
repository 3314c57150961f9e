"""Attention whose routes and weights are known, because its tokens and weights were planted.

The channels of a token are a query code, a key code, a query beacon and a key beacon, each as wide
as it needs to be; the projection to queries and keys copies them. A region's key code names it, and
its query code holds, with falling weights, the names of the regions that it is to route to. One
token of each region has a key beacon, which all queries look for; the others have what makes up for
it, so that the means of regions, by which routing goes, know nothing of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel import Grid
from bilevel.nn import BiLevelRoutingAttention

BEACON = 40.0
"""The score of a beacon is its square: all weight goes to beacons."""


class Plan(NamedTuple):
    """What is to be seen."""

    grid: Grid
    routes: NDArray[np.int64]
    """``(R, k)``, best first."""
    beacons: NDArray[np.int64]
    """Row and column of each region's beacon, ``(R, 2)``."""

    def lit(self, region: int) -> set[tuple[int, int]]:
        """The tokens that any query of a region attends to."""
        return {(int(row), int(column)) for row, column in self.beacons[self.routes[region]]}


def region_of(grid: Grid) -> NDArray[np.int64]:
    """The region of each token, from the definition alone: token n of an axis is in region i where
    ``i * tokens // regions <= n < (i + 1) * tokens // regions``."""
    (height, width), (rows, columns) = grid.spatial, grid.regions
    found = np.full(grid.spatial, -1)
    for i in range(rows):
        for j in range(columns):
            down = slice(i * height // rows, (i + 1) * height // rows)
            across = slice(j * width // columns, (j + 1) * width // columns)
            found[down, across] = i * columns + j
    return found


def planned(grid: Grid, topk: int, rng: np.random.Generator) -> Plan:
    """Random routes and beacons. Regions have two tokens at least."""
    count, of = grid.num_regions, region_of(grid)
    routes = np.stack([rng.permutation(count)[:topk] for _ in range(count)])
    beacons = np.stack([rng.choice(np.argwhere(of == region)) for region in range(count)])
    return Plan(grid, routes, beacons)


def tokens(plan: Plan) -> NDArray[np.float64]:
    """The tokens of a plan, ``(h, w, 2 R + 2)``."""
    count, of = plan.grid.num_regions, region_of(plan.grid)
    topk = plan.routes.shape[1]
    query, key = np.zeros((count, count)), np.eye(count)
    for rank in range(topk):
        query[np.arange(count), plan.routes[:, rank]] = 1 - rank / (2 * topk)
    beacon = np.zeros(plan.grid.spatial)
    for region, (row, column) in enumerate(plan.beacons):
        inside = of == region
        beacon[inside] = -BEACON / (inside.sum() - 1)
        beacon[row, column] = BEACON
    looking = np.full((*plan.grid.spatial, 1), BEACON)
    return np.concatenate([query[of], key[of], looking, beacon[..., None]], axis=-1)


def copy_codes(qkv: Any, count: int, heads: int = 1) -> None:
    """Let a linear layer on ``(..., C)`` make queries and keys of the first channels, which are
    those of :func:`tokens`; with several heads, the last has them, and the others have nothing."""
    weight = torch.zeros_like(qkv.weight)
    dim = weight.shape[1]
    size, first = dim // heads, dim - dim // heads
    assert size > count, "a head holds a code and a beacon"
    code = torch.arange(count)
    weight[first + code, code] = 1.0  # queries
    weight[first + count, 2 * count] = 1.0
    weight[dim + first + code, count + code] = 1.0  # keys
    weight[dim + first + count, 2 * count + 1] = 1.0
    with torch.no_grad():
        qkv.weight.copy_(weight)
        if qkv.bias is not None:
            qkv.bias.zero_()


def layer(plan: Plan, heads: int = 1, **options: Any) -> tuple[BiLevelRoutingAttention, Any]:
    """A bare layer that routes and attends as planned, and its input ``(1, h, w, C)``."""
    count = plan.grid.num_regions
    size = 2 * count + 2
    made = BiLevelRoutingAttention(
        size * heads,
        heads,
        plan.grid.regions,
        plan.routes.shape[1],
        scale=1.0,
        dtype=torch.float64,
        **options,
    )
    copy_codes(made.qkv, count, heads)
    x = torch.zeros((1, *plan.grid.spatial, size * heads), dtype=torch.float64)
    x[0, ..., :size] = torch.from_numpy(tokens(plan))
    return made, x.movedim(-1, 1) if made.channels_first else x
