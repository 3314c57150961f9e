"""Fused kernels on a GPU: real sizes, the same bits, graphs, memory, and no waiting. Those of CuPy
work on torch tensors, too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.frameworks import skip_without_gpu

skip_without_gpu()

import torch
from torch import Tensor

import bilevel

SHAPES = [
    pytest.param((4, 56, 56, 2, 32), 7, 1, id="64 tokens"),
    pytest.param((4, 28, 28, 4, 32), 7, 4, id="16 tokens"),
    pytest.param((4, 14, 14, 8, 32), 7, 16, id="4 tokens, in groups"),
    pytest.param((1, 256, 256, 2, 32), 16, 4, id="256 tokens, in parts"),
    pytest.param((2, 50, 61, 2, 64), 7, 4, id="ragged"),
    pytest.param((2, 13, 15, 2, 64), 7, 4, id="ragged groups"),
    pytest.param((1, 30, 20, 10, 1, 48), 5, 9, id="three axes, odd channels"),
    pytest.param((2, 1000, 1, 128), 10, 3, id="one axis, widest"),
    pytest.param((1, 64, 64, 2, 32), 32, 8, id="as many key regions as a tile holds"),
    pytest.param((1, 66, 66, 2, 32), 33, 8, id="more key regions, torch chooses"),
]

BOTH = pytest.mark.parametrize("backend", ["triton", "cupy"], indirect=True)
TRITON = pytest.mark.usefixtures("triton")

ERRORS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest relative errors, of the norm, beside float64."""


def arrays(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """q, k and v as views of one projection."""
    torch.manual_seed(0)
    *tokens, heads, channels = shape
    projection = torch.randn(*tokens, 3, heads, channels, device="cuda", dtype=dtype)
    return [x.requires_grad_() for x in projection.detach().unbind(-3)]


def both(shape: tuple[int, ...], dtype: torch.dtype, **how: Any) -> tuple[Tensor, ...]:
    """The output and the gradients, as new random numbers weigh them."""
    q, k, v = arrays(shape, dtype)
    out = bilevel.bra(q, k, v, **how)
    return (out, *torch.autograd.grad(out, (q, k, v), torch.randn_like(out)))


@BOTH
@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize(("shape", "regions", "topk"), SHAPES)
def test_results_are_those_of_float64(
    shape: tuple[int, ...], regions: int, topk: int, dtype: torch.dtype, backend: str
) -> None:
    q, k, v = arrays(shape, dtype)
    out, routes = bilevel.bra(
        q, k, v, regions=regions, topk=topk, backend=backend, return_routes=True
    )
    weights = torch.randn_like(out)
    got = (out, *torch.autograd.grad(out, (q, k, v), weights))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    want = bilevel.bra(*exact, regions=regions, routes=routes.index, backend="torch")
    wanted = (want, *torch.autograd.grad(want, exact, weights.double()))
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() <= ERRORS[dtype] * b.norm()


@TRITON
@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize(("shape", "regions", "topk"), SHAPES)
def test_routes_are_those_of_float64(
    shape: tuple[int, ...], regions: int, topk: int, dtype: torch.dtype
) -> None:
    q, k, v = arrays(shape, dtype)
    how: dict[str, Any] = {"regions": regions, "topk": topk, "return_routes": True}
    _, (index, score) = bilevel.bra(q, k, v, **how, backend="triton")
    exact = [x.detach().double() for x in (q, k, v)]
    _, (_, best) = bilevel.bra(*exact, **how, backend="torch")
    grid = bilevel.Grid(shape[1:-2], regions)
    q_mean, k_mean = (bilevel.summarize(x, grid) for x in exact[:2])
    chosen = (q_mean @ k_mean.mT).gather(-1, index)  # near ties may be chosen in another order
    for found in (score.double(), chosen):
        torch.testing.assert_close(found, best, rtol=1e-5, atol=1e-5)
    assert (index.sort(-1).values.diff(dim=-1) > 0).all()


@TRITON
def test_ties_and_nan_are_routed_as_by_torch() -> None:
    torch.manual_seed(0)
    q, k = torch.randint(-1, 2, (2, 8, 28, 28, 2, 4), device="cuda").float().unbind()
    k[:, ::9, ::5, 0, 0] = torch.nan  # sums of small integers are exact in any order
    how: dict[str, Any] = {"regions": 14, "topk": 49, "return_routes": True}
    _, got = bilevel.bra(q, k, q, **how, backend="triton")
    _, want = bilevel.bra(q, k, q, **how, backend="torch")
    assert torch.equal(got.index, want.index)
    assert torch.equal(got.score, want.score)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "regions", "topk"), SHAPES)
def test_the_same_bits_in_20_runs(
    shape: tuple[int, ...], regions: int, topk: int, dtype: torch.dtype, backend: str
) -> None:
    first = both(shape, dtype, regions=regions, topk=topk, backend=backend)
    for _ in range(19):
        again = both(shape, dtype, regions=regions, topk=topk, backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@BOTH
@pytest.mark.parametrize(("shape", "regions", "topk"), SHAPES)
def test_nothing_waits_for_the_host(
    shape: tuple[int, ...], regions: int, topk: int, backend: str
) -> None:
    both(shape, torch.bfloat16, regions=regions, topk=topk, backend=backend)  # compiles
    with waiting_is_an_error():
        both(shape, torch.bfloat16, regions=regions, topk=topk, backend=backend)


@BOTH
@pytest.mark.parametrize(("shape", "regions", "topk"), SHAPES)
def test_graphs_capture_it(shape: tuple[int, ...], regions: int, topk: int, backend: str) -> None:
    q, k, v = arrays(shape, torch.bfloat16)
    weights = torch.randn_like(v)

    def step() -> tuple[Tensor, ...]:
        out = bilevel.bra(q, k, v, regions=regions, topk=topk, backend=backend)
        return (out, *torch.autograd.grad(out, (q, k, v), weights))

    captured, graph = captured_in_a_graph(step)
    with torch.no_grad():
        for x in (q, k, v):
            x.copy_(torch.randn_like(x))
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert torch.equal(got, want)


def captured_in_a_graph(
    step: Callable[[], tuple[Tensor, ...]],
) -> tuple[tuple[Tensor, ...], torch.cuda.CUDAGraph]:
    """What a step computes when the graph is replayed, and the graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    return captured, graph


@BOTH
def test_memory_is_that_of_results(backend: str) -> None:
    # One image of 20 channels and 600 x 500 tokens: the gather formulation needs tens of GB.
    q, k, v = arrays((1, 600, 500, 1, 20), torch.float32)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = bilevel.bra(q, k, v, regions=10, topk=4, backend=backend)
    torch.autograd.grad(out.sum(), (q, k, v))
    assert torch.cuda.max_memory_allocated() - before < 0.5e9


@BOTH
def test_more_elements_than_32_bits_count(backend: str) -> None:
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("less than 60 GB of the GPU's memory are free")
    images = 2**31 // (64 * 64 * 128) + 2
    q, k, v = (
        torch.randn(images, 64, 64, 2, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)
    )
    assert q.numel() > 2**31
    out, pullback = bilevel.bra_vjp(q, k, v, regions=8, topk=2, backend=backend)
    gradients = pullback(out)
    last = [x[-1:] for x in (q, k, v)]
    want, pullback = bilevel.bra_vjp(*last, regions=8, topk=2, backend=backend)
    for got, expected in zip((out, *gradients), (want, *pullback(want)), strict=True):
        assert torch.equal(got[-1:], expected)


@TRITON
def test_compiled_by_inductor() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return bilevel.bra(2 * q, k, v, topk=4, backend="triton").relu()

    q, k, v = arrays((2, 28, 28, 4, 32), torch.float32)
    out, want = torch.compile(attention, fullgraph=True)(q, k, v), attention(q, k, v)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(
        torch.autograd.grad(out.square().sum(), (q, k, v)),
        torch.autograd.grad(want.square().sum(), (q, k, v)),
    )
