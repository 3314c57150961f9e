"""What Bi-Level Routing Attention costs, in operations, bytes and time, each way to compute it.

The ways to compute it under given routes, or formulations:

``flash``
    Copy the routed regions of each query region; then one kernel attends, which keeps no scores.
``matmul``
    The same copies; then two batched matrix products, with the scores between them in memory.
``dense``
    One kernel over all tokens, with minus infinity for scores of regions that are not routed to.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from bilevel.errors import ShapeError
from bilevel.grid import Grid

COMPUTE_BYTES = {"float16": 4, "bfloat16": 4, "float32": 4, "float64": 8}
"""Bytes of the numbers that are computed with, by the dtype of the arguments."""

INDEX_BYTES = 8


class Cost(NamedTuple):
    """What one image costs, forward."""

    flops: int
    """Floating-point operations of matrix products: two for a multiplication and its sum."""
    exps: int
    """Exponentials of the softmax."""
    bytes_moved: int
    """Bytes read and written, if no step finds in a cache what another left there."""
    peak_bytes: int
    """The most memory at once beyond q, k and v; the output is part of it."""
    nanoseconds: float
    """Time on two cores of one CPU: an estimate to compare formulations by, no promise."""


class Sizes(NamedTuple):
    """What costs follow from, for one image; regions are padded to the largest."""

    queries: int
    """Padded queries of all heads."""
    keys: int
    """Padded keys of all heads."""
    query_regions: int
    """R * M"""
    topk: int
    """k"""
    keys_each: int
    """L = k * T, the padded keys of one query."""
    all_scores: int
    """Scores of all heads without routing, for the tokens there are."""
    heads: int
    """M"""
    head_dim: int
    """D"""
    value_dim: int
    """Dv"""


def sizes(
    q_grid: Grid, k_grid: Grid, topk: int, heads: int, head_dim: int, value_dim: int
) -> Sizes:
    """The sizes of a call of :func:`bilevel.bra`."""
    return Sizes(
        queries=q_grid.num_regions * q_grid.region_tokens * heads,
        keys=k_grid.num_regions * k_grid.region_tokens * heads,
        query_regions=q_grid.num_regions * heads,
        topk=topk,
        keys_each=topk * k_grid.region_tokens,
        all_scores=prod(q_grid.spatial) * prod(k_grid.spatial) * heads,
        heads=heads,
        head_dim=head_dim,
        value_dim=value_dim,
    )


def formulations(size: Sizes, dtype: str = "float32") -> dict[str, Cost]:
    """The cost of each formulation under given routes.

    The times are fitted to measurements in float32. A copied element takes 1.2 ns. A score takes
    3 ns in ``matmul``, for it goes to memory and back, and 1.4 ns in ``flash``, which takes more
    for each query: it loses where a query has less than some 50 keys. In ``dense`` a score takes
    0.6 ns, and an entry of the mask, which all heads share, 7 ns.
    """
    item, index = COMPUTE_BYTES[dtype], INDEX_BYTES * size.query_regions * size.topk
    q, out = size.queries * size.head_dim, size.queries * size.value_dim
    k, v = size.keys * size.head_dim, size.keys * size.value_dim
    routed_keys = size.query_regions * size.keys_each
    scores = size.queries * size.keys_each
    mask = size.all_scores // size.heads
    channels = size.head_dim + size.value_dim
    maps, routed = q + k + v + out, q + routed_keys * channels
    copies = maps + routed_keys * channels
    gathering = max(routed + v, 2 * out)
    rows = {
        "matmul": Cost(
            flops=2 * scores * channels,
            exps=scores,
            bytes_moved=item * (2 * copies + routed + out + 4 * scores) + index,
            peak_bytes=item * max(gathering, routed + scores + max(scores, out)) + index,
            nanoseconds=1.2 * copies + 3.0 * scores + 130 * size.queries,
        ),
        "flash": Cost(
            flops=2 * scores * channels,
            exps=scores,
            bytes_moved=item * (2 * copies + routed + out) + index,
            peak_bytes=item * max(gathering, routed + out + size.queries) + index,
            nanoseconds=1.2 * copies + 1.4 * scores + 210 * size.queries,
        ),
    }
    dense = Cost(
        flops=2 * size.all_scores * channels,
        exps=size.all_scores,
        bytes_moved=item * (2 * maps + 2 * mask),
        peak_bytes=item * (mask + out + size.queries),
        nanoseconds=1.2 * maps + 0.6 * size.all_scores + 7.0 * mask,
    )
    return {**rows, "dense": dense}


def cost(
    spatial: Sequence[int],
    regions: int | Sequence[int] = 7,
    topk: int = 4,
    heads: int = 1,
    head_dim: int = 32,
    dtype: str = "float32",
) -> dict[str, Cost]:
    """What :func:`bilevel.bra` costs for one image of ``spatial`` tokens, in each formulation.

    With the routing, whose scores all formulations share.

    Parameters
    ----------
    spatial
        Tokens on each axis.
    regions
        Regions on each axis, one int or one for each.
    topk
        Key regions of each query region.
    heads, head_dim
        M heads of D channels, for keys and values alike.
    dtype
        Of the arrays; halves are computed with in float32.

    Returns
    -------
    dict
        From the name of a formulation to its :class:`Cost`.

    Raises
    ------
    ShapeError
        If ``regions`` or ``topk`` do not fit the axes, or a number is not positive.

    Examples
    --------
    >>> costs = cost((56, 56), topk=1, heads=2)
    >>> min(costs, key=lambda name: costs[name].nanoseconds)
    'matmul'
    """
    grid = Grid(spatial, regions)
    if dtype not in COMPUTE_BYTES:
        raise ShapeError(f"expected dtype to be one of {', '.join(COMPUTE_BYTES)}, got {dtype!r}")
    if not (1 <= topk <= grid.num_regions and heads >= 1 and head_dim >= 1):
        raise ShapeError(
            f"expected topk from 1 to {grid.num_regions}, the number of regions, and heads and "
            f"head_dim from 1, got {topk}, {heads} and {head_dim}"
        )
    found = formulations(sizes(grid, grid, topk, heads, head_dim, head_dim), dtype)
    routing = 2 * grid.num_regions**2 * heads * head_dim
    return {name: each._replace(flops=each.flops + routing) for name, each in found.items()}
