"""Stochastic depth drawn for the whole global batch: ranks drop the same branches together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from bilevel.models import BiFormer, BiFormerConfig
from bilevel.models.modules import DropPath
from bilevel.train import draws
from bilevel.train.plan import Plan, rows

MICRO = BiFormerConfig(
    depths=(1, 1), embed_dims=(8, 16), topk=(2, None), head_dim=8, regions=2, num_classes=3,
    drop_path=0.6,
)  # fmt: skip


def model_of(rate: float = 0.6) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(replace(MICRO, drop_path=rate)).train()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_drop_the_branches_that_one_would(ranks: int) -> None:
    model, whole = model_of(), Plan(5, 100, 16)
    alone = draws.kept(model, whole, 3, "cpu")
    assert alone.shape == (4, 16)
    assert 0 < alone[2:].float().mean() < 1
    assert alone[:2].all()  # the first block's rate is 0
    by_row = {row: alone[:, i] for i, row in enumerate(whole.rows())}
    for rank in range(ranks):
        mine = draws.kept(model, replace(whole, ranks=ranks, rank=rank), 3, "cpu")
        for i, row in enumerate(rows(16, ranks, rank)):
            assert torch.equal(mine[:, i], by_row[row])
    assert not torch.equal(alone, draws.kept(model, whole, 4, "cpu"))


def test_branches_are_kept_at_the_rate_of_their_block() -> None:
    share = draws.kept(model_of(), Plan(0, 20000, 20000), 0, "cpu").float().mean(1)
    assert share.tolist() == pytest.approx([1, 1, 0.4, 0.4], abs=0.02)


def test_what_is_handed_out_is_what_is_dropped() -> None:
    drop, x = DropPath(0.25), torch.ones(4, 2, 2, 3)
    drop.kept = torch.tensor([True, False, False, True])
    assert drop(x)[:, 0, 0, 0].tolist() == pytest.approx([1 / 0.75, 0, 0, 1 / 0.75])
    assert drop(x.double()).dtype == torch.float64
    assert drop.eval()(x) is x


def test_steps_set_all_generators_and_nothing_stays_set() -> None:
    model, plan = model_of(), Plan(1, 8, 4)

    def drawn(step: int) -> list[float]:
        draws.begin_step(model, plan, step, "cpu")
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert drawn(3) == drawn(3)
    assert set(drawn(3)).isdisjoint(drawn(4))
    x = torch.randn(4, 3, 32, 32)
    draws.begin_step(model, plan, 0, "cpu")
    a, b = model(x), model(x)
    assert torch.equal(a, b)
    draws.hand_out(model, None)
    assert not torch.equal(model(x), model(x))  # as torch draws
    assert model(x[:3]).shape == (3, 3)


def gradients(model: nn.Module, x: Tensor, step: Callable[[], None]) -> list[Tensor]:
    step()
    loss: Any = model(x).square().mean()
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


def test_what_is_dropped_stays_so_in_activation_checkpointing() -> None:
    model, plan, x = model_of(), Plan(1, 8, 4), torch.randn(4, 3, 32, 32)

    def step() -> None:
        draws.begin_step(model, plan, 0, "cpu")

    expected = gradients(model, x, step)
    for stage in model.stages:
        stage.checkpointing = True
    for a, b in zip(gradients(model, x, step), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:Guards may run slower")  # of some Pythons' first releases
def test_compiled_models_drop_what_is_handed_out_and_compile_once() -> None:
    drop, x = DropPath(0.5), torch.randn(6, 2, 2, 3)
    counter = CompileCounter()
    compiled = torch.compile(drop, backend=counter, fullgraph=True)
    for step in range(4):
        drop.kept = torch.rand(6, generator=torch.Generator().manual_seed(step)) < 0.5
        assert torch.equal(compiled(x), drop(x))
    assert counter.frame_count == 1
