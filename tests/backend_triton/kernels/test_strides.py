"""Offsets in memory are counted in 64 bits, along every axis of every array."""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are interpreted by: TRITON_INTERPRET=1 pytest", allow_module_level=True)

import torch
from torch import Tensor

from bilevel_triton import launch, memory
from bilevel_triton.call import Call
from bilevel_triton.custom_ops import route_regions

FAR = 2**30
"""A stride: it fits 32 bits, and its product with 2 does not."""

SHAPE = (3, 3, 3, 3)  # images, tokens, heads, channels
INDEX = torch.tensor([[[0, 1, 2], [2, 0, 1], [1, 2, 0]]]).repeat(3, 1, 1)


def far_apart(x: Tensor, axis: int, buffer: Tensor, offset: int) -> Tensor:
    """A copy in ``buffer`` that goes far along one axis; the pages between are never touched."""
    strides = [27, 9, 3, 1]
    strides[axis] = FAR
    view = buffer.as_strided(SHAPE, strides, offset)
    view.copy_(x)
    return view


@pytest.mark.parametrize("axis", range(4), ids=["images", "tokens", "heads", "channels"])
def test_arrays_whose_tokens_are_far_apart(axis: int) -> None:
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randn(SHAPE, generator=generator).half() for _ in range(4)]
    buffer = torch.empty(2 * FAR + 1024, dtype=torch.float16)
    far = [far_apart(x, axis, buffer, 128 * i) for i, x in enumerate(arrays)]
    for got, want in zip(run(*far), run(*arrays), strict=True):
        assert torch.equal(got, want)


def run(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    """Routes and scores, the output and the gradients, by the kernels."""
    call = Call(q, k, v, INDEX, (3,), (3,), 0.5)
    out = memory.empty(q, SHAPE, q.dtype)
    lse = memory.empty(q, (3, 3, 3), torch.float32)
    launch.forward(call, out, lse)
    gradients = [memory.empty(x, SHAPE, x.dtype) for x in (q, k, v)]
    launch.backward(call, d_out, out, lse, *gradients)
    return (out, lse, *gradients, *route_regions(q, k, (3,), (3,), 2))
