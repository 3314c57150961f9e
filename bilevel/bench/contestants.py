"""Who computes attention beside bilevel on a GPU: all take ``(N, H, W, M, D)``, or what they
prepare of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel import registry
from bilevel.bench import flex
from bilevel.bench.contest import Step
from bilevel.bench.gather import gather_bra
from bilevel.grid import Grid
from bilevel.ops import bra

LIBRARIES = ("torch", "cupy")
"""Of backends that are measured on torch's tensors."""


def unchanged(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return q, k, v


@dataclass(frozen=True)
class Contestant:
    """A way to compute attention."""

    run: Callable[..., Tensor]
    """From what was prepared, queries, keys and values first, to an output like the queries."""
    prepare: Callable[[Tensor, Tensor, Tensor], tuple[Any, ...]] = unchanged
    """What is done before, and not timed."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What holds during a call and its backward pass, and is undone."""


def steps(
    contestant: Contestant, inputs: Sequence[tuple[Tensor, Tensor, Tensor]], *, training: bool
) -> list[Step]:
    """A call for each of the inputs: to the output, and when training to the gradients too."""
    return [_step(contestant, training, *contestant.prepare(*each)) for each in inputs]


def _step(
    contestant: Contestant, training: bool, q: Tensor, k: Tensor, v: Tensor, *how: Any
) -> Step:
    leaves = [x.detach().requires_grad_(training) for x in (q, k, v)]
    d_out = torch.randn_like(q) if training else None

    def step() -> tuple[Tensor, ...]:
        with contestant.around(), torch.set_grad_enabled(training):
            out = contestant.run(*leaves, *how)
            return (out, *torch.autograd.grad(out, leaves, d_out)) if training else (out,)

    return step


def operators(topk: int, regions: int, like: Tensor) -> dict[str, Contestant]:
    """The operator with its routing."""
    ours = partial(bra, topk=topk, regions=regions)
    gather = partial(gather_bra, topk=topk, regions=regions, scale=like.shape[-1] ** -0.5)
    fused = partial(torch.compile(gather_bra, dynamic=False), **gather.keywords)
    by_flex = partial(flex.flex_bra, flex.compiled(), topk=topk, regions=regions)
    return {
        "bilevel": Contestant(ours),
        **{name: Contestant(partial(ours, backend=name)) for name in other_backends(like)},
        "gather": Contestant(gather),
        "gather compiled": Contestant(fused),
        "gather deterministic": Contestant(gather, around=deterministic),
        "flex": Contestant(by_flex),
    }


def attentions(topk: int, regions: int, like: Tensor) -> dict[str, Contestant]:
    """Attention under given routes, and full attention, which has none."""
    ours = partial(bra, regions=regions)

    def routed(run: Callable[..., Tensor]) -> Contestant:
        return Contestant(
            lambda q, k, v, index: run(q, k, v, routes=index),
            lambda q, k, v: (q, k, v, flex.routes(q, k, topk, regions)),
        )

    def in_blocks(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
        grid = Grid(q.shape[1:3], regions)
        mask = flex.block_mask(flex.routes(q, k, topk, regions), grid)
        return *(flex.in_region_order(x, grid) for x in (q, k, v)), mask

    return {
        "bilevel": routed(ours),
        **{name: routed(partial(ours, backend=name)) for name in other_backends(like)},
        "flex": Contestant(partial(flex.flex_routed, flex.compiled()), in_blocks),
        "flash": Contestant(
            full_attention, around=partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION)
        ),
        "cudnn": Contestant(
            full_attention, around=partial(sdpa_kernel, SDPBackend.CUDNN_ATTENTION)
        ),
    }


def other_backends(like: Tensor) -> list[str]:
    """The backends that ``bilevel`` does not choose itself for such a tensor; that they take it is
    not said."""
    chosen = registry.choose(registry.describe(like)).name
    listed = (each for each in registry.backends() if each.library in LIBRARIES)
    return [each.name for each in listed if each.name != chosen]


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token to every token, by torch, without a copy: ``(N, H, W, M, D)`` to the same."""
    queries, keys, values = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(queries, keys, values)
    return out.transpose(1, 2).reshape(q.shape)


@contextmanager
def deterministic() -> Iterator[None]:
    """torch's deterministic algorithms, without the filling of new memory that comes with them as
    a help to find bugs; then all is as before."""
    variable = "CUBLAS_WORKSPACE_CONFIG"
    workspace = os.environ.get(variable)
    mode = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # its property is not among its types
    filled = memory.fill_uninitialized_memory
    try:
        os.environ[variable] = ":4096:8"  # else torch refuses matrix products on CUDA
        torch.set_deterministic_debug_mode("error")
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        if workspace is None:
            del os.environ[variable]
        else:
            os.environ[variable] = workspace
