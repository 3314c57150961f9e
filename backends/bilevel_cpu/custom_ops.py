"""Routing and routed attention as torch custom ops: what autograd and torch.compile need to know of
them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from bilevel import compose
from bilevel.cost import formulations, sizes
from bilevel.grid import Grid
from bilevel.protocol import Pullback, Routed, Routes
from bilevel_cpu import call
from bilevel_cpu.call import Memory, Sizes, Team
from bilevel_cpu.threads import runtime_of_torch
from bilevel_torch.autograd import exported, jit_traced, transformed
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_torch.primitives import accumulator


def portable() -> bool:
    """Whether torch's own functions compute: under torch.func, which knows them alone, and in what
    is written to be read where there may be no bilevel."""
    return transformed() or exported() or jit_traced() or torch.onnx.is_in_onnx_export()


@torch.no_grad()
def bra_routes(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int) -> Routes:
    """Equations 4 and 5 of BiFormer."""
    if portable():
        return compose.bra_routes(TORCH, q, k, q_grid, k_grid, topk)
    return Routes(*route_regions(q, k, q_grid.regions, k_grid.regions, topk))


def bra(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> Tensor:
    """Equations 6 and 7 of BiFormer, in one kernel."""
    if portable():
        return compose.bra(TORCH, q, k, v, routed)
    index, q_grid, k_grid, scale = routed
    out, _ = attend_routed(q, k, v, index, q_grid.regions, k_grid.regions, scale)
    return out


def bra_vjp(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> tuple[Tensor, Pullback]:
    """The operator and its pullback, which raises an error if an array it reads was written to."""
    if transformed():
        return compose.bra_vjp(TORCH, q, k, v, routed)
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    with torch.enable_grad():
        out = bra(q, k, v, routed)

    def pullback(d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_q, d_k, d_v = torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True)
        return d_q, d_k, d_v

    return out.detach(), pullback


@torch.library.custom_op("bilevel::route_regions_on_cpu", mutates_args=(), device_types="cpu")
def route_regions(
    q: Tensor, k: Tensor, q_regions: Sequence[int], k_regions: Sequence[int], topk: int
) -> tuple[Tensor, Tensor]:
    """The routes, best first, int64 ``(N, R, k)``, and their scores, float32 or float64."""
    index, score = _empty_routes(q, q_regions, topk)
    if index.numel():
        sizes = _sizes(q, k, k, q_regions, k_regions, topk, 1.0)
        maps = {"q": _memory(q), "k": _memory(k)}
        call.find_routes(sizes, _team(), index.data_ptr(), score.data_ptr(), **maps)
    return index, score


@torch.library.custom_op("bilevel::attend_routed_on_cpu", mutates_args=(), device_types="cpu")
def attend_routed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output ``(N, *spatial, M, Dv)``, and the logarithm to base 2 of each query's softmax
    denominator, float32 or float64 ``(N, *spatial, M)``."""
    out, lse = _empty_outputs(q, v)
    if out.numel():
        routes = _routes(index)
        sizes = _sizes(q, k, v, q_regions, k_regions, index.shape[-1], scale)
        maps = dict(
            zip(("q", "k", "v", "out", "lse"), map(_memory, (q, k, v, out, lse)), strict=True)
        )
        call.forward(sizes, _team(), routes.data_ptr(), **maps)
    return out, lse


@torch.library.custom_op(
    "bilevel::attend_routed_backward_on_cpu", mutates_args=(), device_types="cpu"
)
def attend_routed_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    out: Tensor,
    lse: Tensor,
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    gradients = _empty_gradients(q, k, v)
    if out.numel():
        routes = _routes(index)
        sizes = _sizes(q, k, v, q_regions, k_regions, index.shape[-1], scale)
        names = ("q", "k", "v", "out", "lse", "d_out", "d_q", "d_k", "d_v")
        tensors = (q, k, v, out, lse, d_out, *gradients)
        maps = dict(zip(names, map(_memory, tensors), strict=True))
        call.backward(sizes, _team(), routes.data_ptr(), **maps)
    return gradients


@route_regions.register_fake
def _(
    q: Tensor, k: Tensor, q_regions: Sequence[int], k_regions: Sequence[int], topk: int
) -> tuple[Tensor, Tensor]:
    return _empty_routes(q, q_regions, topk)


@attend_routed.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_outputs(q, v)


@attend_routed_backward.register_fake
def _(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(q, k, v)


def _sizes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    topk: int,
    scale: float,
) -> Sizes:
    grids = Grid(q.shape[1:-2], q_regions), Grid(k.shape[1:-2], k_regions)
    dtype = str(q.dtype).removeprefix("torch.")
    return Sizes(dtype, q.shape[0], q.shape[-2], topk, q.shape[-1], v.shape[-1], *grids, scale)


def _memory(x: Tensor) -> Memory:
    return Memory(x.data_ptr(), x.stride())


def _routes(index: Tensor) -> Tensor:
    return index.to(torch.int64).contiguous()


def _team() -> Team:
    return Team(torch.get_num_threads(), runtime_of_torch())


def _empty_routes(q: Tensor, q_regions: Sequence[int], topk: int) -> tuple[Tensor, Tensor]:
    shape = (q.shape[0], prod(q_regions), topk)
    return q.new_empty(shape, dtype=torch.int64), q.new_empty(shape, dtype=accumulator(q))


def _empty_outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out = q.new_empty((*q.shape[:-1], v.shape[-1]))
    return out, q.new_empty(q.shape[:-1], dtype=accumulator(q))


def _empty_gradients(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.new_empty(x.shape) for x in tensors)
    return q, k, v


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.constants = inputs[4:]


def _backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    gradients = attend_routed_backward(d_out, *ctx.saved_tensors, *ctx.constants)
    return (*gradients, None, None, None, None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.constants = inputs[7:]


def _second_backward(ctx: Any, *d_gradients: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives, by torch's own functions: few ask for them."""
    *tensors, index = ctx.saved_tensors
    q_regions, k_regions, scale = ctx.constants
    with torch.enable_grad():
        d_out, q, k, v = leaves = [x.detach().requires_grad_() for x in tensors]
        grids = Grid(q.shape[1:-2], q_regions), Grid(k.shape[1:-2], k_regions)
        out = TORCH.formulations["matmul"](q, k, v, Routed(index, *grids, scale))
        gradients = torch.autograd.grad(out, (q, k, v), d_out, create_graph=True)
        found = torch.autograd.grad(gradients, leaves, d_gradients)
    return (*found, None, None, None, None, None, None)


attend_routed.register_autograd(_backward, setup_context=_save)
attend_routed_backward.register_autograd(_second_backward, setup_context=_save_backward)


@register_flop_formula(torch.ops.bilevel.route_regions_on_cpu)
def _(
    q: Sequence[int],
    k: Sequence[int],
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """For torch's counter, which hands over shapes: the products of means."""
    return 2 * q[0] * prod(q_regions) * prod(k_regions) * q[-1] * q[-2]


@register_flop_formula(torch.ops.bilevel.attend_routed_on_cpu)
def _attention_flops(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    index: Sequence[int],
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    grids = Grid(q[1:-2], q_regions), Grid(k[1:-2], k_regions)
    size = sizes(*grids, index[-1], q[-2], q[-1], v[-1])
    return q[0] * formulations(size)["matmul"].flops


@register_flop_formula(torch.ops.bilevel.attend_routed_backward_on_cpu)
def _(d_out: Sequence[int], *shapes: Any, **_: Any) -> int:
    """Five products where the forward pass has two."""
    q, k, v, index, _out, _lse, *constants = shapes
    return _attention_flops(q, k, v, index, *constants) * 5 // 2
