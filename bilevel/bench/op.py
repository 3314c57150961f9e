"""The operator beside the gather formulation, on the shapes of BiFormer's stages and larger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bilevel.bench.contest import Results, contest
from bilevel.bench.contestants import Contestant, steps
from bilevel.bench.gather import gather_bra
from bilevel.grid import Grid
from bilevel.ops import bra
from bilevel.protocol import Routed
from bilevel.registry import load

Inputs: TypeAlias = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Queries, keys and values ``(N, H, W, M, D)``, once or several times."""


class Shape(NamedTuple):
    """Maps and how they are attended to."""

    batch: int
    size: int | tuple[int, int]
    """Height and width; an int is both."""
    regions: int
    topk: int
    heads: int
    head_dim: int = 32
    dtype: str = "float32"

    @property
    def grid(self) -> Grid:
        size = self.size
        return Grid((size, size) if isinstance(size, int) else size, self.regions)


SHAPES = (
    Shape(8, 56, 7, 1, 2),
    Shape(8, 28, 7, 4, 4),
    Shape(8, 14, 7, 16, 8),
    Shape(1, 128, 8, 4, 2),
    Shape(1, 256, 16, 8, 2),
)

PASSES = ("forward", "forward_backward")

LARGEST_DENSE = 2**28
"""Scores of all tokens: beyond, ``dense`` is not tried, for it would take minutes."""


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Milliseconds of each formulation on a CPU, forward, and forward and backward."""
    results = passes(_contestants(shape), inputs(shape, "cpu"), (rounds, max(3, rounds // 3)))
    return {**shape._asdict(), **groups(results)}


def inputs(shape: Shape, device: str, sets: int = 1) -> Inputs:
    """Random arrays, as views of projections."""
    batch, _, _, _, heads, head_dim, dtype = shape
    dims = (batch, *shape.grid.spatial, 3, heads, head_dim)
    kind = getattr(torch, dtype)
    found = []
    for _ in range(sets):
        q, k, v = torch.randn(dims, device=device, dtype=kind).unbind(3)
        found.append((q, k, v))
    return found


def passes(
    contestants: Mapping[str, Contestant],
    inputs: Inputs,
    rounds: tuple[int, int],
    device: str = "cpu",
    *,
    graphs: bool = False,
) -> dict[str, Results]:
    """The results of both :data:`PASSES`, each of so many rounds."""
    found = {}
    for name, training, turns in zip(PASSES, (False, True), rounds, strict=True):
        ready = {
            who: partial(steps, each, inputs, training=training)
            for who, each in contestants.items()
        }
        found[name] = contest(ready, turns, device, graphs=graphs)
    return found


def groups(results: Mapping[str, Results], prefix: str = "") -> dict[str, Any]:
    """Results as part of a row: the times of each pass, and who has none."""
    return {
        **{f"{prefix}{name}_ms": each.milliseconds for name, each in results.items()},
        "left_out": {
            f"{who}, {prefix}{name}": why
            for name, each in results.items()
            for who, why in each.left_out.items()
        },
    }


def _contestants(shape: Shape) -> dict[str, Contestant]:
    regions, topk = shape.regions, shape.topk
    scale = shape.head_dim**-0.5
    grid = shape.grid
    backend = load("torch")
    assert backend.bra_routes is not None
    route = backend.bra_routes

    def formulation(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        routes = route(q, k, grid, grid, topk)
        return attend(q, k, v, Routed(routes.index, grid, grid, scale))

    found = {name: partial(formulation, each) for name, each in backend.formulations.items()}
    tokens = grid.num_regions * grid.region_tokens
    if shape.batch * shape.heads * tokens**2 > LARGEST_DENSE:
        del found["dense"]
    runs = {
        "gather": partial(gather_bra, topk=topk, regions=regions, scale=scale),
        "bilevel": partial(bra, topk=topk, regions=regions),
        **found,
    }
    return {name: Contestant(run) for name, run in runs.items()}
