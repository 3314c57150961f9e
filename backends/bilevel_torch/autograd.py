"""torch's derivatives in the conventions of jax: from autograd to pullbacks, and back again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def vjp(
    function: Callable[..., Tensor], *tensors: Tensor
) -> tuple[Tensor, Callable[..., tuple[Tensor, ...]]]:
    """torch's own, without its option for auxiliary output."""
    out, pullback = torch.func.vjp(function, *tensors)  # type: ignore[misc] # no third: no has_aux
    return out, pullback


def custom_vjp(function: Callable[..., Any], vjp: Callable[..., Any], *tensors: Tensor) -> Any:
    """``function`` of any number of tensors, with the derivatives that ``vjp`` gives where torch
    records any."""
    if not needs_gradient(*tensors):
        return function(*tensors)
    out, _ = _CustomVjp.apply(vjp, *tensors)
    return out


class _CustomVjp(torch.autograd.Function):
    """The second output is the pullback, which has no derivative."""

    @staticmethod
    def forward(vjp: Callable[..., Any], *tensors: Tensor) -> Any:
        return vjp(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.pullback = output[1]
        ctx.save_for_backward(*inputs[1:])  # the pullback reads their memory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_pullback: None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises, if one was written to since
        return (None, *ctx.pullback(d_out))


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, computed again in the backward pass, which keeps nothing of it but
    its arguments, the last of which has no gradient; torch.func keeps what it needs."""
    if transformed() or not needs_gradient(*tensors):
        return function(*tensors)
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    """torch.utils.checkpoint, without what it does for random numbers and for hooks."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, last = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in tensors]
            out = ctx.function(*leaves, last)
        return (None, *torch.autograd.grad(out, leaves, d_out), None)


def needs_gradient(*arguments: Any) -> bool:
    """Whether autograd records what is done with these."""
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in arguments
    )


def transformed() -> bool:
    """Whether torch.func transforms the code that runs: then values cannot be read, and flash
    kernels have no rules."""
    return torch._C._are_functorch_transforms_active()


def traced() -> bool:
    """Whether there are no values to read: in a trace of torch.compile, torch.export or torch.jit,
    and under torch.func."""
    return jit_traced() or torch.compiler.is_compiling() or transformed()


def jit_traced() -> bool:
    """Whether torch.jit traces."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


def exported() -> bool:
    """Whether torch.export traces; before torch 2.7, which cannot tell, torch.compile too."""
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(asked())
