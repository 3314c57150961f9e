"""The operators of the Triton backend, as autograd and torch.compile see them; interpreted."""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are interpreted by: TRITON_INTERPRET=1 pytest", allow_module_level=True)

import torch
from torch import Tensor

import bilevel
from bilevel_triton.custom_ops import attend_routed, attend_routed_backward, route_regions
from bilevel_triton.tiles import MAX_ROUTES
from tests.backend_triton.kernels.interpreter import INTERPRETED


def leaves(*shape: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).requires_grad_() for _ in range(3)]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return bilevel.bra(q, k, v, regions=2, topk=2, backend=INTERPRETED)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return bilevel.bra(q, k, v, regions=2, topk=2, backend="torch")


# What torch says of its own check, which reads gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_operators_are_what_torch_expects() -> None:
    q, k, v = leaves(1, 6, 6, 2, 8)
    many = torch.randn(1, 9, 9, 2, 8)
    index = torch.tensor([[[1, 0], [2, 1], [3, 0], [0, 2]]])
    how = ([2, 2], [2, 2], 0.3)
    torch.library.opcheck(attend_routed, (q, k, v, index, *how))
    with torch.no_grad():
        for topk in (2, MAX_ROUTES + 1):  # of all by the kernel, of so many by torch
            torch.library.opcheck(route_regions, (q, many, [2, 2], [9, 9], topk))
        out, lse = attend_routed(q, k, v, index, *how)
        torch.library.opcheck(attend_routed_backward, (out, q, k, v, index, out, lse, *how))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic: bool) -> None:
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (2, 3):
        arrays = leaves(batch, 6, 6, 1, 8)
        out, want = compiled(*arrays), reference(*arrays)
        torch.testing.assert_close(out, want)
        got = torch.autograd.grad(out.square().sum(), arrays)
        torch.testing.assert_close(got, torch.autograd.grad(want.square().sum(), arrays))


def test_gradients_of_any_strides() -> None:
    arrays = leaves(1, 6, 6, 1, 8)
    out, want = attention(*arrays), reference(*arrays)
    for weights in (
        torch.ones(()).expand(out.shape),
        torch.randn(8, 6, 6, 1, 1).movedim((0, 1, 2, 3, 4), (4, 2, 1, 0, 3)),
    ):
        got = torch.autograd.grad(out, arrays, weights, retain_graph=True)
        torch.testing.assert_close(
            got, torch.autograd.grad(want, arrays, weights, retain_graph=True)
        )


def test_only_what_needs_a_gradient_has_one() -> None:
    q, k, v = leaves(1, 6, 6, 1, 8)
    torch.autograd.backward(attention(q, k.detach(), v).sum())
    assert q.grad is not None
    assert v.grad is not None


def test_a_pullback_notices_what_was_written_to() -> None:
    q, k, v = (x.detach() for x in leaves(1, 6, 6, 1, 8))
    out, pullback = bilevel.bra_vjp(q, k, v, regions=2, topk=2, backend=INTERPRETED)
    d_out = out.clone()
    out.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pullback(d_out)


def test_second_derivatives_are_refused() -> None:
    q, k, v = leaves(1, 6, 6, 1, 8)
    (d_q,) = torch.autograd.grad(attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="attend_routed_backward"):
        torch.autograd.grad(d_q.sum(), q)


def test_function_transforms_are_torch_s() -> None:
    q, k, v = (x.detach() for x in leaves(2, 6, 6, 1, 8))
    by_image = torch.func.vmap(lambda q, k, v: attention(q[None], k[None], v[None])[0])(q, k, v)
    torch.testing.assert_close(by_image, attention(q, k, v))
    d_q = torch.func.grad(lambda q: attention(q, k, v).square().sum())(q)
    torch.testing.assert_close(d_q, torch.func.grad(lambda q: reference(q, k, v).square().sum())(q))
