"""Three ways to compute BRA under given routes; :mod:`bilevel.cost` tells which is fastest where.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from functools import partial
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel.grid import Grid
from bilevel.protocol import Routed
from bilevel_torch.autograd import recomputed, traced
from bilevel_torch.primitives import (
    accumulator,
    axis_regions,
    gather,
    key_mask,
    merge,
    partition,
    reshaped,
    summarize,
    take_regions,
)


def rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routed: Routed,
    *,
    flash: bool,
    at_once: int | None = None,
) -> Tensor:
    """Copy the routed regions of each query region, then attend: with ``flash`` in one kernel that
    keeps no scores, else by matrix products. ``at_once`` is how many query regions are computed
    together, each lot of them again in the backward pass; None is all, which are kept."""
    index, q_grid, k_grid, scale = routed
    heads = 1 if flash else q.shape[-2]
    queries, keys, values = (
        partition(heads_apart(x.to(accumulator(x)), heads), grid)
        for x, grid in ((q, q_grid), (k, k_grid), (v, k_grid))
    )
    index = index.repeat_interleave(heads, 0)
    attend = partial(attend_rows, k_grid=k_grid, scale=scale, flash=flash)
    if at_once is None:
        out = attend(queries, keys, values, index)
    else:
        lots = zip(torch.split(queries, at_once, 1), torch.split(index, at_once, 1), strict=True)
        out = torch.cat([recomputed(attend, lot, keys, values, to) for lot, to in lots], dim=1)
    return heads_together(merge(out.to(q.dtype), q_grid), heads)


def attend_rows(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, k_grid: Grid, scale: float, *, flash: bool
) -> Tensor:
    """:func:`rows` of regions, all or some of the queries': ``(N, R, T, M, D)`` to like shape."""
    keys, values = gather(k, index), gather(v, index)
    bias = None
    if not k_grid.uniform:
        real = batched(key_mask(index, k_grid))[:, None, None, :]
        bias = torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, -torch.inf)
    # Of fewer scores than a vector holds the kernel overlooks NaN.
    attended = F.scaled_dot_product_attention if flash and keys.shape[2] >= 16 else products
    queries, keys, values = (batched(x).transpose(1, 2) for x in (q, keys, values))
    out = attended(queries, keys, values, attn_mask=bias, scale=scale)
    return reshaped(out.transpose(1, 2), *q.shape[:-1], v.shape[-1])


def products(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, scale: float) -> Tensor:
    """What torch's scaled_dot_product_attention is, by batched matrix products."""
    shape, heads = q.shape, q.shape[1]
    beta, bias = 0, q.new_zeros(1)
    if attn_mask is not None:
        beta, bias = 1, batched(attn_mask.expand(-1, heads, -1, -1))
    q, k, v = map(batched, (q, k, v))
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), beta=beta, alpha=scale).softmax(-1)
    return reshaped(weights @ v, *shape[:-1], v.shape[-1])


def batched(x: Tensor) -> Tensor:
    """``(A, B, *rest)`` to ``(A * B, *rest)``."""
    return reshaped(x, x.shape[0] * x.shape[1], *x.shape[2:])


def heads_apart(x: Tensor, groups: int) -> Tensor:
    """``(N, *spatial, M, D)`` to ``(N * groups, *spatial, M / groups, D)``: groups of heads as
    images of their own, for batched products copy what is not one after the other."""
    x = x.reshape(*x.shape[:-2], groups, x.shape[-2] // groups, x.shape[-1])
    return x.movedim(x.ndim - 3, 1).flatten(0, 1)


def heads_together(x: Tensor, groups: int) -> Tensor:
    """The inverse of :func:`heads_apart`."""
    x = x.reshape(x.shape[0] // groups, groups, *x.shape[1:])
    return x.movedim(1, x.ndim - 3).flatten(x.ndim - 3, x.ndim - 2)


def dense(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> Tensor:
    """Attend to every token, with a bias of minus infinity where a region is not routed to."""
    dtype = q.dtype
    q, k, v = (x.to(accumulator(x)) for x in (q, k, v))
    # Copies, as below: products of memory at another place may differ in the last bit.
    k, v = (x.clone(memory_format=torch.contiguous_format) for x in (k, v))
    if known_finite(k, v):
        return biased(q, k, v, routed).to(dtype)
    # A weight of zero times NaN is NaN: what is not finite must reach the outputs routed to alone.
    # There it makes NaN of all channels of all heads.
    finite_k, finite_v = torch.isfinite(k), torch.isfinite(v)
    clean_k, clean_v = torch.where(finite_k, k, 0), torch.where(finite_v, v, 0)
    out = biased(q, clean_k, clean_v, routed)
    finite = finite_k.flatten(k.ndim - 2).all(-1) & finite_v.flatten(k.ndim - 2).all(-1)
    of_region = summarize(torch.where(finite, 0.0, torch.nan)[..., None, None], routed.k_grid)
    reached = take_regions(of_region, routed.index).view(routed.index.shape).sum(-1)
    of_token = reached.index_select(1, token_regions(routed.q_grid, q.device))
    return (out + of_token.view(*out.shape[:-2], 1, 1)).to(dtype)


def biased(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> Tensor:
    """:func:`dense` for finite keys and values."""
    index, q_grid, k_grid, scale = routed
    n, m = q.shape[0], q.shape[-2]
    bias = q.new_full((n, q_grid.num_regions, k_grid.num_regions), -torch.inf)
    bias = bias.scatter(-1, index.long(), 0.0)
    # Keys first, while there are few rows: torch copies whole rows far faster.
    bias = bias.index_select(2, token_regions(k_grid, q.device))
    bias = bias.index_select(1, token_regions(q_grid, q.device))
    queries, keys, values = (
        x.reshape(n, prod(x.shape[1:-2]), m, x.shape[-1]).transpose(1, 2) for x in (q, k, v)
    )
    out = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias[:, None], scale=scale
    )
    return out.transpose(1, 2).reshape(*q.shape[:-1], v.shape[-1])


def known_finite(*tensors: Tensor) -> bool:
    """Whether all values are finite; False where they cannot be read."""
    if traced():
        return False
    with torch.no_grad():
        return bool(torch.isfinite(torch.stack([x.sum() for x in tensors]).sum()))


def token_regions(grid: Grid, device: torch.device) -> Tensor:
    """The region of each token, both counted in row-major order."""
    region = torch.arange(grid.num_regions, device=device).view(grid.regions)
    for i, axis in enumerate(grid.axes):
        if axis.uniform:
            region = region.repeat_interleave(axis.size, i)
        else:
            region = region.index_select(i, axis_regions(axis, device))
    return region.flatten()
