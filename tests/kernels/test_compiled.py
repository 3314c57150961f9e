"""The Triton kernels compile for the GPUs they are meant for, and hardly spill registers."""

from __future__ import annotations

import os
from math import prod
from typing import NamedTuple

import pytest

if "BILEVEL_COMPILE_KERNELS" not in os.environ:
    pytest.skip("kernels are compiled by: nox -s kernels", allow_module_level=True)

import torch
from aot import SHARED_MEMORY, Compiled, compiled

from frameworks import load_or_skip

load_or_skip("triton")

from bilevel_triton import launch
from bilevel_triton.call import Call


class Shape(NamedTuple):
    """A map, its regions and its heads; there are as many images."""

    spatial: tuple[int, ...]
    regions: int
    topk: int
    head_dim: int
    value_dim: int | None = None
    heads: int = 2


ASIDE = 16
"""Bytes that the assembler puts into local memory where that lets one more program run beside the
others: kernels with registers to spare have them too, and which ones, changes with its version."""

SHAPES = [
    pytest.param(Shape((56, 56), 7, 1, 32), id="64 tokens"),
    pytest.param(Shape((28, 28), 7, 4, 32), id="16 tokens"),
    pytest.param(Shape((14, 14), 7, 16, 32), id="4 tokens, in groups"),
    pytest.param(Shape((256, 256), 16, 1, 32), id="256 tokens, in parts"),
    pytest.param(Shape((50, 61), 7, 4, 64), id="ragged"),
    pytest.param(Shape((13, 15), 7, 4, 64), id="ragged groups"),
    pytest.param(Shape((20, 30, 10), 5, 9, 16), id="three axes"),
    pytest.param(Shape((1000,), 10, 3, 128, 40), id="widest keys, odd values"),
    pytest.param(Shape((30,), 10, 3, 128), id="widest, small regions"),
    pytest.param(Shape((1,), 1, 1, 1, heads=1), id="one of each"),  # Triton treats ones apart
]


def launch_both(shape: Shape, dtype: torch.dtype) -> None:
    """Both passes, on memory that nothing reads or writes."""
    regions = (shape.regions,) * len(shape.spatial)
    head_dim, value_dim = shape.head_dim, shape.value_dim or shape.head_dim
    heads = shape.heads
    q, k = torch.empty(heads, *shape.spatial, 2, heads, head_dim, dtype=dtype).unbind(-3)
    v = torch.empty(heads, *shape.spatial, heads, value_dim, dtype=dtype)
    index = torch.empty(heads, prod(regions), shape.topk, dtype=torch.int64)
    call = Call(q, k, v, index, regions, regions, head_dim**-0.5)
    lse = torch.empty(heads, heads, prod(shape.spatial))
    launch.forward(call, v, lse)
    launch.backward(call, v, v, lse, q, k, v)


def matrix_instructions(capability: int, kernel: Compiled) -> int:
    """Those of tensor cores; on Hopper, its own where a tile has 64 rows for each of four warps."""
    names = ("mma.sync", "wgmma.mma_async") if capability >= 90 else ("mma.sync",)
    return sum(kernel.ptx.count(name) for name in names)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_fit(shape: Shape, dtype: torch.dtype, capability: int) -> None:
    kernels = compiled(capability, lambda: launch_both(shape, dtype))
    assert {"attend", "gradient_of_queries", "gradient_of_keys"} <= {k.kernel for k in kernels}
    for kernel in kernels:
        assert kernel.stack <= ASIDE, f"spills: {kernel._replace(ptx='')}"
        assert kernel.shared <= SHARED_MEMORY[capability]
        multiplies = kernel.kernel in ("attend", "gradient_of_queries", "gradient_of_keys")
        if multiplies and dtype != torch.float32:
            assert matrix_instructions(capability, kernel)


def test_hopper_multiplies_by_warpgroups() -> None:
    kernels = compiled(90, lambda: launch_both(Shape((56, 56), 7, 1, 32), torch.bfloat16))
    assert any("wgmma.mma_async" in kernel.ptx for kernel in kernels)
