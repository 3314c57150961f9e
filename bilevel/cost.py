"""What Bi-Level Routing Attention costs, in operations, bytes and time, each way to compute it.

The ways to compute it under given routes, or formulations:

``flash``
    Copy the routed regions of each query region; then one kernel attends, which keeps no scores.
``matmul``
    The same copies, of each head apart; then two batched matrix products, with the scores between
    them in memory.
``dense``
    One kernel over all tokens, with minus infinity for scores of regions that are not routed to.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from bilevel.arguments import choice, count
from bilevel.errors import ShapeError
from bilevel.grid import Grid

COMPUTE_BYTES = {"float16": 4, "bfloat16": 4, "float32": 4, "float64": 8}
"""Bytes of the numbers that are computed with, by the dtype of the arguments."""


class Cost(NamedTuple):
    """What one image costs, forward."""

    flops: int
    """Floating-point operations of matrix products, two for a multiplication and its sum."""
    exps: int
    """Exponentials of the softmax."""
    bytes_moved: int
    """Bytes read and written, if no step finds in a cache what another left there."""
    peak_bytes: int
    """The most memory at once beyond q, k and v, the output included. On a single axis regions
    are views, and less is needed."""
    nanoseconds: float
    """Time on two cores of one CPU, an estimate to compare formulations by and no promise."""


class Sizes(NamedTuple):
    """What costs follow from, for one image; regions are padded to the largest."""

    queries: int
    """Padded queries of all heads."""
    keys: int
    """Padded keys of all heads."""
    query_regions: int
    """R * M"""
    keys_each: int
    """L = k * T, the padded keys of one query."""
    q_tokens: int
    k_tokens: int
    """Tokens as they come, without padding."""
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
        keys_each=topk * k_grid.region_tokens,
        q_tokens=prod(q_grid.spatial),
        k_tokens=prod(k_grid.spatial),
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
    item, channels = COMPUTE_BYTES[dtype], size.head_dim + size.value_dim
    scores, routed_keys = size.queries * size.keys_each, size.query_regions * size.keys_each
    maps = size.queries * size.head_dim + size.keys * channels
    out, lse = size.queries * size.value_dim, size.queries
    padding_mask = routed_keys if size.keys > size.k_tokens * size.heads else 0
    routed = routed_keys * channels
    copies = maps + routed + out
    held = maps + routed + padding_mask
    moved = 2 * copies + routed + size.queries * channels
    apart = 0  # a single head is apart as it is
    if size.heads > 1:
        apart = size.heads * (size.q_tokens * size.head_dim + size.k_tokens * channels)
    mask = size.q_tokens * size.k_tokens
    all_scores = mask * size.heads
    all_maps = size.heads * (size.q_tokens + size.k_tokens) * channels
    all_copies = size.heads * (size.k_tokens * channels + size.q_tokens * (size.value_dim + 1))
    return {
        "flash": Cost(
            flops=2 * scores * channels,
            exps=scores,
            bytes_moved=item * moved,
            peak_bytes=item * (held + out + lse),
            nanoseconds=1.2 * copies + 1.4 * scores + 210 * size.queries,
        ),
        "matmul": Cost(
            flops=2 * scores * channels,
            exps=scores,
            bytes_moved=item * (moved + 2 * apart + 4 * scores),
            peak_bytes=item * (held + scores + max(scores, out)),
            nanoseconds=1.2 * copies + 3.0 * scores + 130 * size.queries,
        ),
        "dense": Cost(
            flops=2 * all_scores * channels,
            exps=all_scores,
            bytes_moved=item * (2 * all_maps + 2 * mask),
            peak_bytes=item * (mask + all_copies),
            nanoseconds=1.2 * all_maps + 0.6 * all_scores + 7.0 * mask,
        ),
    }


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
        If ``regions`` or ``topk`` do not fit the axes.
    ArgumentError
        If a number is not positive, or the dtype is another.

    Examples
    --------
    >>> costs = cost((56, 56), topk=1, heads=2)
    >>> min(costs, key=lambda name: costs[name].nanoseconds)
    'flash'
    """
    grid = Grid(spatial, regions)
    choice("dtype", dtype, tuple(COMPUTE_BYTES))
    topk = count("topk", topk, 1, grid.num_regions, "the number of regions", ShapeError)
    heads, head_dim = count("heads", heads), count("head_dim", head_dim)
    found = formulations(sizes(grid, grid, topk, heads, head_dim, head_dim), dtype)
    routing = 2 * grid.num_regions**2 * heads * head_dim
    return {name: each._replace(flops=each.flops + routing) for name, each in found.items()}


class Plan(NamedTuple):
    """How many regions to split each axis into, and what that costs."""

    regions: int
    """Regions on each axis with the least cost."""
    flops_per_channel: int
    """Of routing and attention, for one image."""
    dividing: int
    """The same among those that divide every axis, so that nothing is padded."""
    dividing_flops_per_channel: int
    """Of routing and attention with these, for one image."""


def plan(spatial: Sequence[int], topk: int = 4) -> Plan:
    """The number of regions that makes routing and attention cheapest (the paper's complexity
    analysis of BRA).

    Few regions are large: there is much to attend to. Many are dear to route between. For S
    regions on each of d axes and P tokens, the cost per channel is ``2 * S**(2 * d)`` for routing
    and ``2 * topk * P**2 / S**d`` for attention, which the paper balances.

    Parameters
    ----------
    spatial
        Tokens on each axis.
    topk
        Key regions of each query region.

    Raises
    ------
    ShapeError
        If an axis is empty, or if there are not enough tokens for ``topk`` regions.

    Examples
    --------
    >>> plan((56, 56), topk=4)
    Plan(regions=16, flops_per_channel=438400, dividing=14, dividing_flops_per_channel=478240)
    """
    spatial = Grid(spatial, 1).spatial
    largest = min(spatial)
    most = f"the most regions of {spatial} tokens, with as many on each axis"
    topk = count("topk", topk, 1, largest ** len(spatial), most, ShapeError)
    counts = [s for s in range(1, largest + 1) if s ** len(spatial) >= topk]
    dividing = [s for s in counts if all(n % s == 0 for n in spatial)]

    def flops(regions: int) -> int:
        number, tokens = regions ** len(spatial), prod(spatial)
        return 2 * number**2 + 2 * topk * tokens**2 // number

    best = min(counts, key=flops)
    # Where no number of regions divides all axes, the best one of all is as good as it gets.
    whole = min(dividing or [best], key=flops)
    return Plan(best, flops(best), whole, flops(whole))
