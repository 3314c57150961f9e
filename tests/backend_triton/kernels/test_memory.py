"""The Triton kernels write all of their results, and touch no memory beside their arrays."""

from __future__ import annotations

import os
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are interpreted by: TRITON_INTERPRET=1 pytest", allow_module_level=True)

import torch
import triton
import triton.language as tl
from torch import Tensor

from bilevel import bra_vjp
from bilevel_triton import launch, memory
from bilevel_triton.call import Call
from bilevel_triton.custom_ops import attend_routed, attend_routed_backward
from bilevel_triton.kernels.tokens import first_token
from tests.backend_triton.kernels.interpreter import INTERPRETED
from tests.backend_triton.kernels.margins import CANARY, Margins, amid_nan

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


class Shape(NamedTuple):
    spatial: tuple[int, ...]
    regions: tuple[int, ...]
    kv_spatial: tuple[int, ...]
    kv_regions: tuple[int, ...]
    topk: int
    head_dim: int = 16
    value_dim: int = 16
    heads: int = 1
    batch: int = 1


SHAPES = [
    pytest.param(Shape((9, 9), (2, 2), (9, 9), (2, 2), 2), id="ragged, sizes differ on both axes"),
    pytest.param(Shape((7, 5), (7, 5), (7, 5), (7, 5), 3), id="one token in each region"),
    pytest.param(Shape((7, 9), (3, 4), (7, 9), (3, 4), 5), id="small ragged regions"),
    pytest.param(Shape((40, 5), (2, 1), (40, 5), (2, 1), 1), id="regions in parts"),
    pytest.param(Shape((3, 4, 5), (2, 2, 2), (3, 4, 5), (2, 2, 2), 3), id="three axes"),
    pytest.param(Shape((29,), (5,), (6, 7), (2, 3), 4, 20, 24), id="odd channels, other keys"),
    pytest.param(Shape((8, 8), (2, 2), (8, 8), (2, 2), 2, 8, 8, 2, 2), id="images and heads"),
]


def arrays(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v, d_out and distinct routes."""
    rng = np.random.default_rng(0)
    n, m = shape.batch, shape.heads
    q = rng.standard_normal((n, *shape.spatial, m, shape.head_dim))
    k = rng.standard_normal((n, *shape.kv_spatial, m, shape.head_dim))
    v = rng.standard_normal((n, *shape.kv_spatial, m, shape.value_dim))
    d_out = rng.standard_normal((n, *shape.spatial, m, shape.value_dim))
    order = rng.random((n, prod(shape.regions), prod(shape.kv_regions))).argsort(-1)
    index = torch.from_numpy(order[..., : shape.topk].copy())
    return (*(torch.from_numpy(x).to(dtype) for x in (q, k, v, d_out)), index)


def assert_right(
    shape: Shape, found: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor, *others: Tensor
) -> None:
    """The output and the gradients, by torch in float64."""
    d_out, index = others
    out, pullback = bra_vjp(
        q.double(),
        k.double(),
        v.double(),
        regions=shape.regions,
        kv_regions=shape.kv_regions,
        routes=index,
    )
    near = 1e-5 if q.dtype == torch.float32 else 2e-2
    for got, want in zip(found, (out, *pullback(d_out.double())), strict=True):
        assert (got.double() - want).norm() <= near * want.norm()


def run(shape: Shape, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients, by the kernels, of q, k, v, d_out and the routes."""
    q, k, v, d_out, index = inputs
    call = Call(q, k, v, index, shape.regions, shape.kv_regions, shape.head_dim**-0.5)
    out = memory.empty(q, d_out.shape, q.dtype)
    lse = memory.empty(q, (shape.batch, shape.heads, prod(shape.spatial)), torch.float32)
    launch.forward(call, out, lse)
    gradients = [memory.empty(x, x.shape, x.dtype) for x in (q, k, v)]
    launch.backward(call, d_out, out, lse, *gradients)
    return (out, *gradients)


@pytest.mark.parametrize("dtype", CANARY, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_stay_within_their_arrays(
    shape: Shape, dtype: torch.dtype, margins: Margins
) -> None:
    *floats, index = arrays(shape, dtype)
    found = run(shape, *map(amid_nan, floats), index)
    margins.assert_untouched()
    assert_right(shape, found, *floats, index)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape((108,), (12,), (108,), (12,), 1), id="block lists in chunks"),
        pytest.param(
            Shape((200,), (10,), (170,), (5,), 1), id="block lists in chunks, regions in parts"
        ),
        pytest.param(Shape((36,), (12,), (36,), (12,), 1), id="groups"),
        pytest.param(Shape((24,), (24,), (33,), (3,), 1), id="groups stream regions"),
    ],
)
def test_all_may_choose_one_region(shape: Shape, margins: Margins) -> None:
    *floats, index = arrays(shape, torch.float32)
    index[:] = 1
    found = run(shape, *map(amid_nan, floats), index)
    margins.assert_untouched()
    assert_right(shape, found, *floats, index)
    d_k, d_v = (x.flatten(0, 1) for x in found[2:])
    region = slice(*(i * shape.kv_spatial[0] // shape.kv_regions[0] for i in (1, 2)))
    for gradient in (d_k, d_v):
        assert gradient[region].any()
        gradient[region] = 0
        assert not gradient.any()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def first_tokens(out: Any, tokens: Any, REGIONS: tl.constexpr) -> None:
    tl.store(out + tl.program_id(0), first_token(tl.program_id(0) + REGIONS - 4, tokens, REGIONS))


@pytest.mark.parametrize(("tokens", "regions"), [(300_000, 10_007), (131_072, 16_384), (10, 7)])
def test_long_axes_are_counted_right(tokens: int, regions: int) -> None:
    # Tokens times regions do not fit 32 bits.
    out = torch.empty(5, dtype=torch.int32)
    first_tokens[(5,)](out, tokens, regions)
    assert out.tolist() == [i * tokens // regions for i in range(regions - 4, regions + 1)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_routes_of_any_integers(dtype: torch.dtype, margins: Margins) -> None:
    shape = Shape((16,), (1,), (300,), (300,), 3)  # 255 is a region, and what -1 is in uint8
    *floats, _ = arrays(shape, torch.float32)
    index = torch.tensor([[[3, 7, 255]]], dtype=dtype)
    q, k, v, d_out = floats
    out, lse = attend_routed(q, k, v, index, shape.regions, shape.kv_regions, 0.25)
    gradients = attend_routed_backward(
        d_out, q, k, v, index, out, lse, shape.regions, shape.kv_regions, 0.25
    )
    margins.assert_untouched()
    assert_right(shape, (out, *gradients), *floats, index.long())


def test_infinite_keys_spoil_no_gradient_by_padding() -> None:
    q, k, v, d_out, index = arrays(Shape((10,), (1,), (10,), (1,), 1), torch.float32)
    q, k[0, 3, 0, 0] = q.abs(), -torch.inf  # a weight of zero
    _, pullback = bra_vjp(q, k, v, regions=1, routes=index, backend=INTERPRETED)
    _, d_k, d_v = pullback(d_out)
    assert d_k.isfinite().all()
    assert d_v.isfinite().all()


@pytest.mark.parametrize("regions", [(2,), (12,)], ids=["regions", "groups"])
def test_routes_to_nowhere_are_passed_by(regions: tuple[int, ...], margins: Margins) -> None:
    # Among tensors on a GPU routes are not looked at before; those here would end in a fault.
    shape = Shape((24,), regions, (24,), regions, 1)
    *floats, index = arrays(shape, torch.float32)
    nowhere = torch.tensor([-1, -(2**31), regions[0], 2**31 - 1]).expand(*index.shape[:2], -1)
    found = run(shape, *map(amid_nan, floats), torch.cat((nowhere, index), dim=-1))
    margins.assert_untouched()
    assert_right(shape, found, *floats, index)
