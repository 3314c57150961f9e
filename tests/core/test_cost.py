"""The model of costs against what torch counts and allocates."""

from __future__ import annotations

import weakref
from itertools import product
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import bilevel
from bilevel import ArgumentError, Grid, Routed, ShapeError, compose
from bilevel.registry import load
from tests.frameworks import needs

TORCH = load("torch")

SHAPES = {  # spatial, regions, topk, heads, head_dim
    "stage 1": ((56, 56), 7, 1, 2, 32),
    "stage 2": ((28, 28), 7, 4, 4, 32),
    "stage 3": ((14, 14), 7, 16, 8, 32),
    "many keys": ((64, 64), 8, 4, 2, 32),
    "ragged": ((50, 45), 7, 4, 2, 32),
    "volume": ((9, 8, 10), 2, 3, 2, 16),
}


class Peak(TorchDispatchMode):
    """The most bytes at once of the tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.bytes = 0
        self.counted: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        out = op(*args, **(kwargs or {}))
        for x in filter(is_tensor, tree_leaves(out)):
            storage = x.untyped_storage()
            if storage._cdata not in self.counted | known:
                self.counted.add(storage._cdata)
                self.alive += storage.nbytes()
                self.bytes = max(self.bytes, self.alive)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return out

    def freed(self, storage: int, size: int) -> None:
        self.counted.remove(storage)
        self.alive -= size


def is_tensor(x: object) -> bool:
    return isinstance(x, torch.Tensor)


def call(name: str) -> tuple[list[Any], Routed]:
    """q, k and v as views of one projection, and what else a formulation takes."""
    spatial, regions, topk, heads, head_dim = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(1, *spatial, 3, heads, head_dim, generator=generator).unbind(-3)
    grid = Grid(spatial, regions)
    routes = compose.bra_routes(TORCH, q, k, grid, grid, topk)
    return [q, k, v], Routed(routes.index, grid, grid, head_dim**-0.5)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("formulation", TORCH.formulations)
def test_peak_memory_within_a_tenth(name: str, formulation: str) -> None:
    tensors, how = call(name)
    with torch.no_grad(), Peak() as peak:
        TORCH.formulations[formulation](*tensors, how)
    assert peak.bytes == pytest.approx(bilevel.cost(*SHAPES[name])[formulation].peak_bytes, rel=0.1)


@needs("torch", "2.12", "it does not count attention on a CPU")
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("formulation", TORCH.formulations)
def test_flops_are_those_that_torch_counts(name: str, formulation: str) -> None:
    (q, k, v), how = call(name)
    grid = how.q_grid
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compose.bra_routes(TORCH, q, k, grid, grid, SHAPES[name][2])
        TORCH.formulations[formulation](q, k, v, how)
    assert counter.get_total_flops() == bilevel.cost(*SHAPES[name])[formulation].flops


def test_memory_and_exps_by_hand() -> None:
    """One axis of 4 tokens in 2 regions, one route, one head, one channel."""
    costs = bilevel.cost((4,), 2, 1, 1, 1)
    # 4 queries see 2 keys each: 8 scores of 2 channels, and 2 * 2 routing products.
    assert costs["matmul"].exps == costs["flash"].exps == 8
    assert costs["matmul"].flops == 2 * 8 * 2 + 2 * 4
    assert costs["dense"].exps == 16
    # q, k, v: 12; routed keys and values: 8; scores before and after the softmax: 16.
    assert costs["matmul"].peak_bytes == 4 * (12 + 8 + 16)
    assert bilevel.cost((4,), 2, 1, 1, 1, "float16") == costs  # computed with in float32
    assert bilevel.cost((4,), 2, 1, 1, 1, "float64")["dense"].peak_bytes == 2 * 4 * (16 + 8 + 8)


def test_bytes_moved_by_hand() -> None:
    """The same: what is read and what is written, of four bytes each."""
    one, two = (bilevel.cost((4,), 2, 1, heads, 1) for heads in (1, 2))
    # Maps of q, k and v, routed keys and values, outputs, each read and written: 12 + 8 + 4. Then
    # queries and routed rows are read once more.
    moved = 2 * (12 + 8 + 4) + 8 + 8
    assert one["flash"].bytes_moved == 4 * moved
    assert two["flash"].bytes_moved == 4 * 2 * moved
    # Scores go to memory and back, before and after the softmax.
    assert one["matmul"].bytes_moved == 4 * (moved + 4 * 8)
    # Each of two heads is copied apart: its 4 queries, keys and values, read and written.
    assert two["matmul"].bytes_moved == 4 * (2 * (moved + 4 * 8) + 2 * 2 * 12)
    # q, k, v and the output, read or written, and a mask that all heads share.
    assert one["dense"].bytes_moved == 4 * (2 * 16 + 2 * 16)
    assert two["dense"].bytes_moved == 4 * (2 * 32 + 2 * 16)


@pytest.mark.parametrize(
    ("shape", "chosen"),
    [
        (((14, 14), 7, 16, 8), "dense"),  # a small map, a third of it routed
        (((28, 28), 7, 49, 4), "dense"),  # all of it
        (((128, 128), 8, 4, 2), "flash"),  # many keys for each query
        (((64, 64), 32, 4, 4), "matmul"),  # few keys for each query
    ],
)
def test_the_rule(shape: Any, chosen: str) -> None:
    costs = bilevel.cost(*shape)
    assert min(costs, key=lambda name: costs[name].nanoseconds) == chosen


@pytest.mark.parametrize(
    "more",
    [{"topk": 0}, {"topk": 50}, {"heads": 0}, {"head_dim": 0}, {"dtype": "int8"}, {"regions": 15}],
)
def test_costs_of_nothing(more: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        bilevel.cost((14, 14), **more)


@pytest.mark.parametrize("spatial", [(56, 56), (14, 14), (30, 20), (97,), (31, 37), (6, 8, 10)])
@pytest.mark.parametrize("topk", [1, 4, 6])
def test_plan_is_the_best_there_is(spatial: tuple[int, ...], topk: int) -> None:
    plan = bilevel.plan(spatial, topk)
    found = {}
    for s in range(1, min(spatial) + 1):
        tokens, number = torch.tensor(spatial).prod().item(), s ** len(spatial)
        if number >= topk:
            found[s] = 2 * number**2 + 2 * topk * tokens**2 // number
    assert plan.flops_per_channel == found[plan.regions] == min(found.values())
    dividing = {s: each for s, each in found.items() if not any(n % s for n in spatial)}
    if dividing:
        best = min(dividing.values())
        assert plan.dividing_flops_per_channel == dividing[plan.dividing] == best
    else:
        assert plan.dividing == plan.regions


def test_plan_follows_the_formula_of_the_paper() -> None:
    """The derivative vanishes where S ** 6 is topk / 2 times the square of the tokens."""
    for side, topk in product((32, 64, 128, 256), (2, 4, 16)):
        exact = (topk / 2 * side**4) ** (1 / 6)
        assert abs(bilevel.plan((side, side), topk).regions - exact) <= 1


@pytest.mark.parametrize(("spatial", "topk"), [((4, 4), 17), ((4, 4), 0), ((0, 4), 1)])
def test_no_plan(spatial: tuple[int, ...], topk: int) -> None:
    with pytest.raises(ShapeError, match="expected"):
        bilevel.plan(spatial, topk)
