"""The operator: the fastest formulation for the shape, in parts where it would take much memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bilevel.cost import Cost, formulations, sizes
from bilevel.grid import Grid
from bilevel.protocol import Routed, Routes
from bilevel_torch.autograd import needs_gradient, recomputed, traced, transformed
from bilevel_torch.formulations import dense, rows
from bilevel_torch.primitives import full_precision, route, summarize

PART = 48 * 2**20
"""Bytes that a part of a call takes, about. Without gradients, a call of more is computed in parts,
whose memory is used again, so that it stays mapped."""

BOUND = 256 * 2**20
"""Bytes that a call may take with gradients, beyond twice q, k and v, before it is computed in
parts: each is computed again in the backward pass."""

BACKWARD = 3
"""With gradients, a call takes about as many times the memory of the forward pass."""


@torch.no_grad()
def bra_routes(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int) -> Routes:
    return route(summarize(q, q_grid), summarize(k, k_grid), topk)


def bra(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> Tensor:
    with full_precision(q):
        if not (routed.q_grid.static and routed.k_grid.static):
            # To compare costs would bind a trace for any size to some.
            return FORMULATIONS["matmul"](q, k, v, routed)
        name, cost = fastest(q, v, routed)
        if traced() or fits(q, k, v, cost):
            return FORMULATIONS[name](q, k, v, routed)
        return in_parts(name, cost.peak_bytes / PART, q, k, v, routed)


def in_parts(
    name: str, parts_per_image: float, q: Tensor, k: Tensor, v: Tensor, routed: Routed
) -> Tensor:
    """Some images at a time, or, where one takes several parts, some regions of one at a time."""
    images = max(1, int(1 / parts_per_image))
    formulation = FORMULATIONS[name]
    by_regions = parts_per_image > 1 and name != "dense"
    if by_regions:
        regions = max(1, int(routed.q_grid.num_regions / parts_per_image))
        formulation = partial(formulation, at_once=regions)

    def attend(q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        return formulation(q, k, v, routed._replace(index=index))

    attend_part = attend if by_regions else partial(recomputed, attend)
    parts = zip(*(torch.split(x, images) for x in (q, k, v, routed.index)), strict=True)
    return torch.cat([attend_part(*part) for part in parts])


def fastest(q: Tensor, v: Tensor, routed: Routed) -> tuple[str, Cost]:
    """The formulation that takes least time for one image, by the rule in :mod:`bilevel.cost`.

    Matrix products where the others have no kernel: for values of another size than the keys, and
    under torch.func. Also off the CPU: the rule is fitted there, and flash kernels elsewhere take
    liberties with precision.
    """
    heads, head_dim = q.shape[-2:]
    topk = routed.index.shape[-1]
    size = sizes(routed.q_grid, routed.k_grid, topk, heads, head_dim, v.shape[-1])
    dtype = str(q.dtype).removeprefix("torch.")
    costs = formulations(size, dtype)
    flash = q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and not transformed()
    names = costs if flash else ("matmul",)
    name = min(names, key=lambda name: costs[name].nanoseconds)
    return name, costs[name]


def fits(q: Tensor, k: Tensor, v: Tensor, cost: Cost) -> bool:
    """Whether to compute all images at once."""
    need = q.shape[0] * cost.peak_bytes
    if not needs_gradient(q, k, v):
        return need <= PART
    inputs = sum(x.numel() * x.element_size() for x in (q, k, v))
    return BACKWARD * need <= BOUND + 2 * inputs


FORMULATIONS: dict[str, Callable[..., Tensor]] = {
    "flash": partial(rows, flash=True),
    "matmul": partial(rows, flash=False),
    "dense": dense,
}
