"""The Triton kernels compile for the GPUs they are meant for, and hardly spill registers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import pytest

if "BILEVEL_COMPILE_KERNELS" not in os.environ:
    pytest.skip("kernels are compiled by: nox -s kernels", allow_module_level=True)

import torch

from bilevel.bench.counts.ahead import SHARED_MEMORY, Compiled, compiled
from tests.frameworks import load_or_skip

load_or_skip("triton")

from bilevel import Grid
from bilevel_triton import launch, routing
from bilevel_triton.call import Call
from bilevel_triton.tiles import CHANNEL_STEP, MAX_KEY_REGIONS, score_tile


class Shape(NamedTuple):
    """A map, its regions and its heads; there are as many images."""

    spatial: tuple[int, ...]
    regions: int
    topk: int
    head_dim: int
    value_dim: int | None = None
    heads: int = 2


ASIDE = 16
"""Bytes of local memory that are no spill: the assembler uses some where that lets one more program
run beside the others, even in kernels with registers to spare; in which, changes by version."""

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
    """Instructions of tensor cores; on Hopper, its own too, for tiles of 64 rows and four warps."""
    names = ("mma.sync", "wgmma.mma_async") if capability >= 90 else ("mma.sync",)
    return sum(kernel.ptx.count(name) for name in names)


def assert_fit(kernels: list[Compiled], capability: int) -> None:
    """In the registers and in the shared memory that a program may have."""
    for kernel in kernels:
        assert kernel.stack <= ASIDE, f"spills: {kernel._replace(ptx='', sass='')}"
        assert kernel.shared <= SHARED_MEMORY[capability]


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_fit(shape: Shape, dtype: torch.dtype, capability: int) -> None:
    kernels = compiled(capability, lambda: launch_both(shape, dtype))
    assert {"attend", "gradient_of_queries", "gradient_of_keys"} <= {k.kernel for k in kernels}
    assert_fit(kernels, capability)
    for kernel in kernels:
        multiplies = kernel.kernel in ("attend", "gradient_of_queries", "gradient_of_keys")
        if multiplies and dtype != torch.float32:
            assert matrix_instructions(capability, kernel)


def test_hopper_multiplies_by_warpgroups() -> None:
    kernels = compiled(90, lambda: launch_both(Shape((56, 56), 7, 1, 32), torch.bfloat16))
    assert any("wgmma.mma_async" in kernel.ptx for kernel in kernels)


TOKENS = [1, 2, 3, 6, 16, 30, 64, 1000]
"""Tokens of a region: their tiles differ in regions and in rows."""


def launch_means(tokens: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    """The means of 18 regions on two axes, ragged where they have more than one token."""
    grid = Grid((3, 6 * tokens - (tokens > 1)), (3, 6))
    q, k = torch.empty(2, *grid.spatial, 2, heads, head_dim, dtype=dtype).unbind(-3)
    routing.region_means(q, k, grid, grid)


def launch_choice(k_regions: int, topk: int, channels: int = 3 * CHANNEL_STEP) -> None:
    """Of ``topk`` routes among ``k_regions`` key regions."""
    tile = score_tile(k_regions)
    assert tile is not None
    routing.best_regions(
        torch.empty(2, 50, channels), torch.empty(2, k_regions, channels), topk, tile
    )


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 20), (8, 32)])
@pytest.mark.parametrize("tokens", TOKENS)
def test_means_fit(
    tokens: int, heads: int, head_dim: int, dtype: torch.dtype, capability: int
) -> None:
    kernels = compiled(capability, lambda: launch_means(tokens, heads, head_dim, dtype))
    assert [kernel.kernel for kernel in kernels] == ["average_regions"]
    assert_fit(kernels, capability)


@pytest.fixture(params=["ieee", "tf32"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """What torch allows for products of float32."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = request.param
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("topk", [1, 4])
@pytest.mark.parametrize("k_regions", [1, 20, 49, 100, 256, 400, MAX_KEY_REGIONS])
def test_choices_fit(k_regions: int, topk: int, precision: str, capability: int) -> None:
    kernels = compiled(capability, lambda: launch_choice(k_regions, topk))
    assert [kernel.kernel for kernel in kernels] == ["choose_regions"]
    assert_fit(kernels, capability)
    # Scores are as exact as torch's would be.
    assert bool(matrix_instructions(capability, kernels[0])) == (precision == "tf32")


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_channels_side_by_side_are_read_together(dtype: torch.dtype, capability: int) -> None:
    (kernel,) = compiled(capability, lambda: launch_means(16, 8, 32, dtype))
    assert "ld.global.v4.b32" in kernel.ptx  # 16 bytes by each thread
