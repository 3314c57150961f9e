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
from bilevel_torch.autograd import recomputed, traced
from bilevel_torch.primitives import (
    accumulator,
    axis_regions,
    merge,
    real_tokens,
    split_regions,
    summarize,
    take_regions,
)


def rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    q_grid: Grid,
    k_grid: Grid,
    scale: float,
    *,
    flash: bool,
    at_once: int | None = None,
) -> Tensor:
    """Copy the routed regions of each query region, then attend: with ``flash`` in one kernel that
    keeps no scores, else by matrix products. So many query regions ``at_once``, each lot computed
    again in the backward pass; None is all, and none again."""
    attend = partial(attend_rows, k_grid=k_grid, scale=scale, flash=flash)
    queries, keys, values = heads_first(q, q_grid), heads_first(k, k_grid), heads_first(v, k_grid)
    if at_once is None:
        out = attend(queries, keys, values, index)
    else:
        lots = zip(torch.split(queries, at_once, 2), torch.split(index, at_once, 1), strict=True)
        out = torch.cat([recomputed(attend, lot, keys, values, to) for lot, to in lots], dim=2)
    return merge_heads_first(out.to(q.dtype), q_grid)


def attend_rows(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, k_grid: Grid, scale: float, *, flash: bool
) -> Tensor:
    """:func:`rows` of regions, all or some of the queries': ``(N, M, R, T, D)`` to like shape."""
    n, m, r, t, d = q.shape
    length = index.shape[-1] * k_grid.region_tokens
    index = index[:, None].expand(-1, m, -1, -1)
    keys, values = (
        take_regions(x.flatten(3), index).view(n * m * r, length, x.shape[-1]) for x in (k, v)
    )
    bias = None
    if not k_grid.uniform:
        real = real_tokens(k_grid, q.device)[index].reshape(n * m * r, 1, length)
        bias = torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, -torch.inf)
    # Of fewer scores than a vector holds the kernel overlooks NaN.
    attended = flash_attention if flash and length >= 16 else matmul_attention
    out = attended(q.reshape(n * m * r, t, d), keys, values, bias, scale)
    return out.view(n, m, r, t, v.shape[-1])


def flash_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """``(B, T, D)`` attend to ``(B, L, D)`` and ``(B, L, Dv)``, with ``bias`` ``(B, 1, L)``."""
    bias = None if bias is None else bias[:, None]
    return F.scaled_dot_product_attention(
        q[:, None], k[:, None], v[:, None], attn_mask=bias, scale=scale
    )[:, 0]


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """``(B, T, D)`` attend to ``(B, L, D)`` and ``(B, L, Dv)``, with ``bias`` ``(B, 1, L)``."""
    beta = 0 if bias is None else 1
    bias = q.new_zeros(1) if bias is None else bias
    return torch.baddbmm(bias, q, k.transpose(1, 2), beta=beta, alpha=scale).softmax(-1) @ v


def dense(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, q_grid: Grid, k_grid: Grid, scale: float
) -> Tensor:
    """Attend to every token, with a bias of minus infinity where a region is not routed to."""
    dtype = q.dtype
    q, k, v = (x.to(accumulator(x)) for x in (q, k, v))
    if known_finite(k, v):
        # Copies, as below: products of memory at another place may differ in the last bit.
        k, v = (x.clone(memory_format=torch.contiguous_format) for x in (k, v))
        return biased(q, k, v, index, q_grid, k_grid, scale).to(dtype)
    # A weight of zero times NaN is NaN: what is not finite must reach the outputs routed to alone.
    # There it makes NaN of the whole head.
    finite_k, finite_v = torch.isfinite(k), torch.isfinite(v)
    clean_k, clean_v = torch.where(finite_k, k, 0), torch.where(finite_v, v, 0)
    out = biased(q, clean_k, clean_v, index, q_grid, k_grid, scale)
    finite = (finite_k.all(-1) & finite_v.all(-1)).unsqueeze(-1)
    of_region = summarize(torch.where(finite, 0.0, torch.nan).to(q.dtype), k_grid)
    reached = take_regions(of_region, index).view(*index.shape, of_region.shape[-1]).sum(2)
    of_token = reached.index_select(1, token_regions(q_grid, q.device))
    return (out + of_token.view(*out.shape[:-1], 1)).to(dtype)


def biased(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, q_grid: Grid, k_grid: Grid, scale: float
) -> Tensor:
    """:func:`dense` for finite keys and values."""
    n, m = q.shape[0], q.shape[-2]
    routed = q.new_full((n, q_grid.num_regions, k_grid.num_regions), -torch.inf)
    routed = routed.scatter(-1, index.long(), 0.0)
    bias = routed.index_select(1, token_regions(q_grid, q.device))
    bias = bias.index_select(2, token_regions(k_grid, q.device))
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


def heads_first(x: Tensor, grid: Grid) -> Tensor:
    """``(N, *spatial, M, D)`` to ``(N, M, R, T, D)``, in float32 or float64; zeros where a region
    has no token."""
    n, m, d = x.shape[0], *x.shape[-2:]
    x = x.to(accumulator(x))
    x = split_regions(x, grid).movedim(-2, 1)
    x = x.reshape(n, m, grid.num_regions, grid.region_tokens, d)
    if not grid.uniform:
        x = x.masked_fill(~real_tokens(grid, x.device)[:, :, None], 0)
    return x


def merge_heads_first(x: Tensor, grid: Grid) -> Tensor:
    """The inverse of :func:`heads_first`."""
    return merge(x.permute(0, 2, 3, 1, 4), grid)


def token_regions(grid: Grid, device: torch.device) -> Tensor:
    """The region of each token, both counted in row-major order."""
    region = torch.zeros(1, dtype=torch.int64, device=device)
    for axis in grid.axes:
        region = (region[:, None] * axis.regions + axis_regions(axis, device)).flatten()
    return region
