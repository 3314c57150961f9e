"""BRA with its projections, as functions written once for every array library.

Each takes ``p``, which has the callables ``qkv`` and ``proj`` on ``(N, *spatial, C)`` arrays and
``lce`` on ``(N, C, *spatial)`` (None: no local context enhancement), and the values ``num_heads``,
``topk``, ``regions`` (one int per spatial axis), ``scale`` and ``backend``: the torch layer of
:mod:`bilevel.nn`, or the layers of arrays of :mod:`bilevel.models.array_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from bilevel.axes import convolved, has_method, reshaped
from bilevel.grid import Grid, fit_regions
from bilevel.ops import bra, route, summarize
from bilevel.protocol import Array, Routes


def routed_attention(p: Any, x: Array, return_routes: bool = False) -> Array:
    """Bi-Level Routing Attention with local context enhancement (section 3.2, equation 8).

    ``x`` is ``(N, *spatial, C)``, and so is the result; with ``return_routes`` it is a pair of the
    result and its :class:`~bilevel.protocol.Routes`. Where an axis has fewer tokens than regions,
    its tokens are the regions, and topk is lowered to the number of regions.
    """
    regions = fit_regions(x.shape[1:-1], p.regions)
    x = _of_fitted_size(x, regions, p.regions)
    q, k, v = split_heads(p.qkv(x), p.num_heads)
    topk = min(p.topk, prod(regions))
    how = {"regions": regions, "scale": p.scale, "backend": p.backend}
    out, routes = bra(q, k, v, topk=topk, return_routes=True, **how)
    out = projected(p, reshaped(out, x.shape), reshaped(v, x.shape))
    return (out, routes) if return_routes else out


def routes_of(p: Any, x: Array) -> Routes:
    """The first half of :func:`routed_attention`: where each region attends to (equations 3 to 5).

    ``x`` is ``(N, *spatial, C)``. Of ``p`` this takes ``qkv``, ``num_heads``, ``topk``,
    ``regions`` and ``backend``.
    """
    grid = Grid(tuple(x.shape[1:-1]), fit_regions(x.shape[1:-1], p.regions))
    q, k, _ = split_heads(p.qkv(x), p.num_heads)
    q_mean, k_mean = (summarize(y, grid, backend=p.backend) for y in (q, k))
    return route(q_mean, k_mean, min(p.topk, grid.num_regions), backend=p.backend)


def _of_fitted_size(x: Array, regions: Sequence[int], wanted: Sequence[int]) -> Array:
    """``x``, whose axes have as many tokens as regions where there are fewer than wanted.

    That is so, but what torch traces is bound to it, and has to refuse other sizes.
    """
    if tuple(regions) == tuple(wanted):
        return x
    sizes = zip(x.shape[1:-1], regions, wanted, strict=True)
    spatial = (s if s != most else n for n, s, most in sizes)
    return reshaped(x, (x.shape[0], *spatial, x.shape[-1]))


def split_heads(qkv: Array, num_heads: int) -> tuple[Array, Array, Array]:
    """``(N, *spatial, 3 * C)`` to queries, keys and values ``(N, *spatial, M, D)``, as views."""
    *tokens, channels = qkv.shape
    dim = channels // 3
    # Of torch's chunks the gradients are put side by side; those of slices would be added up, each
    # with zeros for the others.
    chunks = (
        qkv.chunk(3, -1)
        if has_method(qkv, "chunk")
        else (qkv[..., start : start + dim] for start in (0, dim, 2 * dim))
    )
    q, k, v = (reshaped(x, (*tokens, num_heads, dim // num_heads)) for x in chunks)
    return q, k, v


def projected(p: Any, out: Array, values: Array) -> Array:
    """The last step: attention ``out``, with LCE of ``values`` added where ``p`` has it, through
    ``proj``. All are ``(N, *spatial, C)``."""
    return p.proj(out if p.lce is None else out + convolved(p.lce, values))
