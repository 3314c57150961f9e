"""Routing and routed attention as torch custom ops: what autograd and torch.compile need to know of
them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from bilevel import compose
from bilevel.grid import Grid
from bilevel.protocol import Pullback, Routed, Routes
from bilevel_torch.autograd import transformed
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton import launch, memory, routing
from bilevel_triton.call import Call, uniform_token_stride


@torch.no_grad()
def bra_routes(q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid, topk: int) -> Routes:
    """Equations 4 and 5 of BiFormer, in two kernels; by torch where :func:`bra` is."""
    if transformed() or torch.onnx.is_in_onnx_export():
        return compose.bra_routes(TORCH, q, k, q_grid, k_grid, topk)
    return Routes(*route_regions(q, k, q_grid.regions, k_grid.regions, topk))


def bra(q: Tensor, k: Tensor, v: Tensor, routed: Routed) -> Tensor:
    """Equations 6 and 7 of BiFormer, in one kernel; by torch's own functions under torch.func and
    in exports to ONNX, which know no kernels."""
    if transformed() or torch.onnx.is_in_onnx_export():
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


@torch.library.custom_op("bilevel::route_regions", mutates_args=())
def route_regions(
    q: Tensor, k: Tensor, q_regions: Sequence[int], k_regions: Sequence[int], topk: int
) -> tuple[Tensor, Tensor]:
    """The routes, best first, int64 ``(N, R, k)``, and their scores, float32."""
    if not q.shape[0]:
        return _empty_routes(q, q_regions, topk)
    q_grid, k_grid = Grid(q.shape[1:-2], q_regions), Grid(k.shape[1:-2], k_regions)
    with torch.cuda.device_of(q):
        return routing.find_routes(q, k, q_grid, k_grid, topk)


@torch.library.custom_op("bilevel::attend_routed", mutates_args=())
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
    denominator, float32 ``(N, M, tokens)``."""
    out, lse = _empty_outputs(q, v)
    if out.numel():
        with torch.cuda.device_of(q):
            launch.forward(_call(q, k, v, index, q_regions, k_regions, scale), out, lse)
    return out, lse


@torch.library.custom_op("bilevel::attend_routed_backward", mutates_args=())
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
        with torch.cuda.device_of(q):
            call = _call(q, k, v, index, q_regions, k_regions, scale)
            launch.backward(call, uniform_token_stride(d_out), out, lse, *gradients)
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


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    q_regions: Sequence[int],
    k_regions: Sequence[int],
    scale: float,
) -> Call:
    q, k, v = map(uniform_token_stride, (q, k, v))
    if index.dtype not in (torch.int32, torch.int64):
        index = index.to(torch.int64)  # in kernels -1 is no region
    return Call(q, k, v, index.contiguous(), tuple(q_regions), tuple(k_regions), scale)


def _empty_routes(q: Tensor, q_regions: Sequence[int], topk: int) -> tuple[Tensor, Tensor]:
    shape = (q.shape[0], prod(q_regions), topk)
    return memory.empty(q, shape, torch.int64), memory.empty(q, shape, torch.float32)


def _empty_outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    lse = (q.shape[0], q.shape[-2], prod(q.shape[1:-2]))
    return (
        memory.empty(q, (*q.shape[:-1], v.shape[-1]), q.dtype),
        memory.empty(q, lse, torch.float32),
    )


def _empty_gradients(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (memory.empty(x, x.shape, x.dtype) for x in tensors)
    return q, k, v


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.constants = inputs[4:]


def _backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    gradients = attend_routed_backward(d_out, *ctx.saved_tensors, *ctx.constants)
    return (*gradients, None, None, None, None)


attend_routed.register_autograd(_backward, setup_context=_save)
