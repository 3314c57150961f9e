"""The primitives in eager PyTorch; gradients are autograd's.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch
from torch import Tensor

from bilevel.grid import Axis, Grid
from bilevel.protocol import Attended, Routes
from bilevel_torch.autograd import exported


def reshaped(x: Tensor, *shape: int) -> Tensor:
    """``x.reshape(shape)``. In a trace for any size it goes by way of a single axis: else torch
    compares lengths, which binds the trace to what it finds. An exported program copies: whether
    memory is in order may differ with the size, as for a single image."""
    if all((n == n + 0) is True for n in shape):
        return x.reshape(shape)
    if not exported():
        return x.contiguous().view(-1).view(shape)
    copy = x.clone(memory_format=torch.contiguous_format)
    if torch.onnx.is_in_onnx_export():  # which has no strides
        return copy.view(-1).view(shape)
    # A view divides the lengths of a model's maps, which torch.export cannot prove to have no rest.
    return copy.as_strided(shape, [prod(shape[i:]) for i in range(1, len(shape) + 1)])


def axis_tokens(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor]:
    """The token behind each place of each padded region, ``(regions, size)``, and which are real.

    Computed on the device, so that nothing is copied to it; a place without a token repeats the
    axis's last one.
    """
    bounds = torch.arange(axis.regions + 1, device=device) * axis.tokens // axis.regions
    token = bounds[:-1, None] + torch.arange(axis.size, device=device)
    return token.clamp(max=axis.tokens - 1), token < bounds[1:, None]


def axis_places(axis: Axis, device: torch.device) -> Tensor:
    """The inverse: the place of each token of the axis among its ``regions * size`` places."""
    token, region = torch.arange(axis.tokens, device=device), axis_regions(axis, device)
    return region * axis.size + token - region * axis.tokens // axis.regions


def axis_regions(axis: Axis, device: torch.device) -> Tensor:
    """The region of each token of the axis."""
    token = torch.arange(axis.tokens, device=device)
    return ((token + 1) * axis.regions - 1) // axis.tokens


def real_tokens(grid: Grid, device: torch.device) -> Tensor:
    """Which places of the padded regions hold a token, bool ``(R, T)``."""
    real = torch.ones(1, 1, dtype=torch.bool, device=device)
    for axis in grid.axes:
        _, of_axis = axis_tokens(axis, device)
        outer = real[:, None, :, None] & of_axis[None, :, None, :]
        (r, t), (s, u) = real.shape, of_axis.shape
        real = reshaped(outer, r * s, t * u)
    return real


def split_regions(x: Tensor, grid: Grid) -> Tensor:
    """``(N, *spatial, M, D)`` to ``(N, *regions, *region_shape, M, D)``: a view if uniform."""
    if not grid.uniform:
        for i, axis in enumerate(grid.axes, start=1):
            x = x.index_select(i, axis_tokens(axis, x.device)[0].flatten())
    split = [length for axis in grid.axes for length in (axis.regions, axis.size)]
    last = 2 * grid.ndim + 1
    # Axes are counted from the front: torch's older exporter to ONNX crashes at others.
    order = (0, *range(1, last, 2), *range(2, last, 2), last, last + 1)
    return reshaped(x, x.shape[0], *split, *x.shape[-2:]).permute(order)


def partition(x: Tensor, grid: Grid) -> Tensor:
    r, t = grid.num_regions, grid.region_tokens
    x = reshaped(split_regions(x, grid), x.shape[0], r, t, *x.shape[-2:])
    if not grid.uniform:
        x = x.masked_fill(~real_tokens(grid, x.device)[:, :, None, None], 0)
    return x


def merge(x: Tensor, grid: Grid) -> Tensor:
    n, m, d = x.shape[0], *x.shape[-2:]
    last = 2 * grid.ndim + 1
    order = [axis for i in range(1, grid.ndim + 1) for axis in (i, i + grid.ndim)]
    x = reshaped(x, n, *grid.regions, *grid.region_shape, m, d)
    x = x.permute(0, *order, last, last + 1)
    x = reshaped(x, n, *(axis.regions * axis.size for axis in grid.axes), m, d)
    if not grid.uniform:
        for i, axis in enumerate(grid.axes, start=1):
            x = x.index_select(i, axis_places(axis, x.device))
    return x


def summarize(x: Tensor, grid: Grid) -> Tensor:
    # One axis at a time: torch is many times slower at a sum over several axes far apart.
    mean = x
    for i, axis in enumerate(grid.axes, start=1):
        if not axis.uniform:
            token, real = axis_tokens(axis, x.device)
            trailing = (1,) * (x.ndim - i - 1)
            mean = mean.index_select(i, token.flatten())
            mean = mean.masked_fill(~reshaped(real, axis.regions * axis.size, *trailing), 0)
        split = (*mean.shape[:i], axis.regions, axis.size, *mean.shape[i + 1 :])
        mean = reshaped(mean, *split).sum(i + 1, dtype=accumulator(x))
    mean = mean.reshape(x.shape[0], grid.num_regions, x.shape[-2] * x.shape[-1])
    if grid.uniform:
        return mean / grid.region_tokens
    return mean / real_tokens(grid, x.device).sum(1)[:, None]


@torch.no_grad()
def route(q_mean: Tensor, k_mean: Tensor, topk: int) -> Routes:
    dtype = accumulator(q_mean)
    with full_precision(q_mean):
        score = q_mean.to(dtype) @ k_mean.to(dtype).transpose(1, 2)
    score = score.masked_fill(score.isnan(), -torch.inf)
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort, but its TopK ranks equal scores by index.
        ranked, index = score.topk(topk)
        return Routes(index, ranked)
    # topk promises no order among equal scores; a stable sort does.
    ranked, index = score.sort(dim=-1, descending=True, stable=True)
    return Routes(index[..., :topk], ranked[..., :topk])


def gather(x: Tensor, index: Tensor) -> Tensor:
    n, regions, t, m, d = x.shape
    rows = take_regions(reshaped(x, n, regions, t * m * d), index)
    return reshaped(rows, n, index.shape[1], index.shape[2] * t, m, d)


def take_regions(x: Tensor, index: Tensor) -> Tensor:
    """Whole regions ``(..., Rk, row)`` as rows of one table, which torch takes far faster than
    elements, backward most of all: for an index ``(..., R, k)`` a tensor ``(... R k, row)``."""
    *outer, regions, row = x.shape
    table = prod(outer)
    first = torch.arange(table, device=x.device).view(*outer, 1, 1) * regions
    return reshaped(x, table * regions, row).index_select(0, (index.long() + first).flatten())


def key_mask(index: Tensor, grid: Grid) -> Tensor:
    real = real_tokens(grid, index.device)[index.long()]
    n, r, k, t = real.shape
    return reshaped(real, n, r, k * t)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Attended:
    dtype = accumulator(q)
    # (N, R, T, M, D) -> (N, R, M, T, D)
    queries, keys, values = (x.to(dtype).transpose(2, 3) for x in (q, k, v))
    if mask is not None:
        # NaN times a weight or a gradient of zero would still be NaN.
        keys, values = (x.masked_fill(~mask[:, :, None, :, None], 0) for x in (keys, values))
    with full_precision(q):
        scores = queries @ keys.transpose(3, 4) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None, None, :], -torch.inf)
        lse = scores.logsumexp(-1)
        out = scores.softmax(-1) @ values
    return Attended(out.transpose(2, 3).to(q.dtype), lse.transpose(2, 3))


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Products stay in the dtype of their factors, also where the caller uses autocast."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def accumulator(x: Tensor) -> torch.dtype:
    """Means, scores, softmax and sums are float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)
