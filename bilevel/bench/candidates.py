"""The ways to compute attention that are compared: bilevel's own, and baselines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel import registry
from bilevel.bench import flex
from bilevel.bench.baselines import deterministic, full_attention
from bilevel.bench.comparison import Step
from bilevel.bench.gather import gather_bra
from bilevel.bench.shapes import Inputs, Shape
from bilevel.grid import Grid
from bilevel.ops import bra
from bilevel.protocol import Routed

LIBRARIES = ("torch", "cupy")
"""Libraries whose backends are measured, on torch's tensors."""

LARGEST_DENSE = 2**28
"""Most scores of all tokens for which ``dense`` is measured: more would take minutes."""


def unchanged(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return q, k, v


@dataclass(frozen=True)
class Candidate:
    """A way to compute attention on ``(N, H, W, M, D)``."""

    run: Callable[..., Tensor]
    """Takes what ``prepare`` returns; returns an output of the queries' shape."""
    prepare: Callable[[Tensor, Tensor, Tensor], tuple[Any, ...]] = unchanged
    """What is done before and not timed; returns queries, keys and values first."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """The context in which a call and its backward pass run."""


def steps(candidate: Candidate, inputs: Inputs, *, training: bool) -> list[Step]:
    """A call for each set of inputs, which returns the output and, when training, gradients."""
    return [_step(candidate, training, *candidate.prepare(*each)) for each in inputs]


def _step(
    candidate: Candidate, training: bool, q: Tensor, k: Tensor, v: Tensor, *prepared: Any
) -> Step:
    leaves = [x.detach().requires_grad_(training) for x in (q, k, v)]
    d_out = torch.randn_like(q) if training else None

    def step() -> tuple[Tensor, ...]:
        with candidate.around(), torch.set_grad_enabled(training):
            out = candidate.run(*leaves, *prepared)
            return (out, *torch.autograd.grad(out, leaves, d_out)) if training else (out,)

    return step


def formulations(shape: Shape) -> dict[str, Candidate]:
    """On a CPU: the operator with its routing, and each formulation that it chooses from."""
    topk, regions, grid = shape.topk, shape.regions, shape.grid
    scale = shape.head_dim**-0.5
    backend = registry.load("torch")
    assert backend.bra_routes is not None
    bra_routes = backend.bra_routes

    def formulation(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        index = bra_routes(q, k, grid, grid, topk).index
        return attend(q, k, v, Routed(index, grid, grid, scale))

    found = {name: partial(formulation, each) for name, each in backend.formulations.items()}
    if shape.queries * grid.num_regions * grid.region_tokens > LARGEST_DENSE:
        del found["dense"]
    runs = {
        "gather": partial(gather_bra, topk=topk, regions=regions, scale=scale),
        "bilevel": partial(bra, topk=topk, regions=regions),
        **found,
    }
    return {name: Candidate(run) for name, run in runs.items()}


def operators(shape: Shape, like: Tensor) -> dict[str, Candidate]:
    """On a GPU: the operator with its routing. ``like`` is a tensor of the queries' kind."""
    ours = partial(bra, topk=shape.topk, regions=shape.regions)
    gather = partial(gather_bra, topk=shape.topk, regions=shape.regions, scale=shape.head_dim**-0.5)
    fused = partial(torch.compile(gather_bra, dynamic=False), **gather.keywords)
    by_flex = partial(flex.flex_bra, flex.compiled(), topk=shape.topk, regions=shape.regions)
    return {
        "bilevel": Candidate(ours),
        **{name: Candidate(partial(ours, backend=name)) for name in other_backends(like)},
        "gather": Candidate(gather),
        "gather compiled": Candidate(fused),
        "gather deterministic": Candidate(gather, around=deterministic),
        "flex": Candidate(by_flex),
    }


def attentions(shape: Shape, like: Tensor) -> dict[str, Candidate]:
    """On a GPU: attention given the routes, and full attention, which has none."""
    regions = shape.regions
    ours = partial(bra, regions=regions)

    def routed(run: Callable[..., Tensor]) -> Candidate:
        return Candidate(
            lambda q, k, v, index: run(q, k, v, routes=index),
            lambda q, k, v: (q, k, v, flex.routed_regions(q, k, shape.topk, regions)),
        )

    def in_blocks(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
        grid = Grid(q.shape[1:3], regions)
        mask = flex.block_mask(flex.routed_regions(q, k, shape.topk, regions), grid)
        return *(flex.in_region_order(x, grid) for x in (q, k, v)), mask

    def full(kernel: SDPBackend) -> Candidate:
        return Candidate(full_attention, around=partial(sdpa_kernel, kernel))

    return {
        "bilevel": routed(ours),
        **{name: routed(partial(ours, backend=name)) for name in other_backends(like)},
        "flex": Candidate(partial(flex.flex_routed, flex.compiled()), in_blocks),
        "flash": full(SDPBackend.FLASH_ATTENTION),
        "cudnn": full(SDPBackend.CUDNN_ATTENTION),
    }


def other_backends(like: Tensor) -> list[str]:
    """The backends that ``bilevel`` does not choose itself for such a tensor. Whether they accept
    it is not checked."""
    chosen = registry.choose(registry.describe(like)).name
    listed = (each for each in registry.backends() if each.library in LIBRARIES)
    # Of a name that two have, only one can be asked for.
    return list(dict.fromkeys(each.name for each in listed if each.name != chosen))
