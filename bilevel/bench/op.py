"""The operator beside the gather formulation, on the shapes of BiFormer's stages and larger."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.bench.gather import gather_bra
from bilevel.bench.measure import milliseconds
from bilevel.grid import Grid
from bilevel.ops import bra
from bilevel.registry import load


class Shape(NamedTuple):
    """A square map with heads of 32 channels."""

    batch: int
    size: int
    regions: int
    topk: int
    heads: int


SHAPES = (
    Shape(8, 56, 7, 1, 2),
    Shape(8, 28, 7, 4, 4),
    Shape(8, 14, 7, 16, 8),
    Shape(1, 128, 8, 4, 2),
    Shape(1, 256, 16, 8, 2),
)
HEAD_DIM = 32

LARGEST_DENSE = 2**28
"""Scores of all tokens: beyond, ``dense`` is not tried, for it would take minutes."""


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Milliseconds of each formulation, forward, and forward and backward."""
    projection = torch.randn(shape.batch, shape.size, shape.size, 3, shape.heads, HEAD_DIM)
    q, k, v = projection.unbind(3)
    contestants = _contestants(shape)
    with torch.no_grad():
        forward = milliseconds(
            {name: partial(run, q, k, v) for name, run in contestants.items()}, rounds
        )
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    d_out = torch.randn_like(q)

    def training(run: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(run(*leaves), leaves, d_out)

    both = milliseconds(
        {name: partial(training, run) for name, run in contestants.items()}, max(3, rounds // 3)
    )
    return {**shape._asdict(), "forward_ms": forward, "forward_backward_ms": both}


def _contestants(shape: Shape) -> dict[str, Callable[..., Tensor]]:
    _, size, regions, topk, heads = shape
    scale = HEAD_DIM**-0.5
    grid = Grid((size, size), regions)
    backend = load("torch")
    assert backend.bra_routes is not None
    route = backend.bra_routes

    def formulation(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        routes = route(q, k, grid, grid, topk)
        return attend(q, k, v, routes.index, grid, grid, scale)

    found = {name: partial(formulation, each) for name, each in backend.formulations.items()}
    if shape.batch * heads * size**4 > LARGEST_DENSE:
        del found["dense"]
    return {
        "gather": partial(gather_bra, topk=topk, regions=regions, scale=scale),
        "bilevel": partial(bra, topk=topk, regions=regions, scale=scale),
        **found,
    }
