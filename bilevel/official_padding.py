"""What is done with maps that regions do not divide: nothing, or what the official code does.

``"masked"`` padding is bilevel's own: regions differ by one token, and padding takes part in
nothing. ``"official"`` adds zeros, and attends to them, for parity with weights and numbers made
that way. The two official implementations, ``"legacy"`` and ``"nchw"``, add them in other places.
Functions take ``p`` as those of :mod:`bilevel.attention` do, with ``p.pad(x, (height, width))``,
which adds zeros after the last row and column of ``(N, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from typing import Any, Literal, TypeAlias

from bilevel.attention import projected, routed_attention, split_heads
from bilevel.axes import reshaped
from bilevel.grid import Grid
from bilevel.ops import bra, route, summarize
from bilevel.protocol import Array

Padding: TypeAlias = Literal["masked", "official"]
Variant: TypeAlias = Literal["legacy", "nchw"]


def legacy_padded_attention(p: Any, x: Array, return_routes: bool = False) -> Array:
    """The official legacy code: zeros are added to the input ``(N, H, W, C)``, up to a multiple of
    the regions, and take part in the means of regions too."""
    h, w = x.shape[1:3]
    size = tuple((n + s - 1) // s * s for n, s in zip((h, w), p.regions, strict=True))
    out, routes = routed_attention(p, p.pad(x, size), return_routes=True)
    out = out[:, :h, :w, :]
    return (out, routes) if return_routes else out


def nchw_padded_attention(p: Any, x: Array, return_routes: bool = False) -> Array:
    """The official nchw code: zeros are added to q, k and v, which region means leave out.

    A region has ``n // regions`` tokens on an axis, so there may be more regions than asked for:
    a trace of torch is bound to the size, and refuses others.
    """
    h, w = map(index, x.shape[1:3])
    x = reshaped(x, (x.shape[0], h, w, x.shape[-1]))
    qkv = p.qkv(x)
    sizes = tuple(max(1, n // s) for n, s in zip((h, w), p.regions, strict=True))
    regions = tuple(-(-n // size) for n, size in zip((h, w), sizes, strict=True))
    grid = Grid(tuple(r * size for r, size in zip(regions, sizes, strict=True)), regions)
    q, k, v = split_heads(p.pad(qkv, grid.spatial), p.num_heads)
    q_mean, k_mean = (_means_without_padding(y, grid, (h, w), p.backend) for y in (q, k))
    routes = route(q_mean, k_mean, min(p.topk, grid.num_regions), backend=p.backend)
    out = bra(q, k, v, routes=routes.index, regions=regions, scale=p.scale, backend=p.backend)
    out = reshaped(out[:, :h, :w, ...], x.shape)
    out = projected(p, out, qkv[..., -x.shape[-1] :])
    return (out, routes) if return_routes else out


def _means_without_padding(x: Array, grid: Grid, size: tuple[int, int], backend: Any) -> Array:
    """Mean of the tokens of each region that lie within a height and width, ``(N, R, C)``."""
    means = summarize(x, grid, backend=backend)
    by_axis = reshaped(means, (-1, *grid.regions, means.shape[-1]))
    (rows, columns), (last_row, last_column) = (
        grid.region_shape,
        (n - (r - 1) * t for n, r, t in zip(size, grid.regions, grid.region_shape, strict=True)),
    )
    by_axis[:, -1, ...] *= rows / last_row
    by_axis[:, :, -1, :] *= columns / last_column
    return reshaped(by_axis, means.shape)


ROUTED_ATTENTION: Mapping[tuple[Padding, Variant], Callable[..., Array]] = {
    ("masked", "legacy"): routed_attention,
    ("masked", "nchw"): routed_attention,
    ("official", "legacy"): legacy_padded_attention,
    ("official", "nchw"): nchw_padded_attention,
}
"""The routed attention for each ``(padding, variant)`` of a layer or a config."""
