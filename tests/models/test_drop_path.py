"""Stochastic depth: each branch of each block is dropped by itself, at the rate of its block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from bilevel.axes import convolved
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.models.config import Layout

MICRO = BiFormerConfig(
    depths=(1, 2, 1), embed_dims=(8, 16, 32), topk=(1, 4, None), head_dim=8, regions=2
)
RATE = 0.75  # whose part that stays is scaled by 4, exactly


@pytest.fixture(params=get_args(Layout))
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


@pytest.mark.parametrize("depths", [(1, 2, 1), (3, 1, 4), (2, 2, 2)])
def test_rates_rise_linearly_over_the_blocks_of_all_stages(
    layout: Layout, depths: tuple[int, ...]
) -> None:
    for last in (0.0, 0.1, 0.9):
        model = BiFormer(replace(MICRO, layout=layout, depths=depths, drop_path=last))
        blocks: list[Any] = [block for stage in model.stages for block in stage]
        for rates in ([b.drop_path1.rate for b in blocks], [b.drop_path2.rate for b in blocks]):
            assert rates == pytest.approx(np.linspace(0, last, sum(depths)).tolist())


@pytest.mark.parametrize("stage", range(3))
def test_each_branch_is_dropped_by_itself(layout: Layout, stage: int) -> None:
    """Of many equal images, some keep neither branch, some either one, and some both; those that
    stay are scaled."""
    torch.manual_seed(0)
    model = BiFormer(replace(MICRO, layout=layout)).double().train()
    block: Any = model.stages[stage][-1]
    block.drop_path1.rate = block.drop_path2.rate = RATE
    x = torch.randn(1, 4, 4, MICRO.embed_dims[stage], dtype=torch.float64)
    with torch.no_grad():
        out = block(x.repeat(400, 1, 1, 1))
        ends = outcomes(block, x)
        near = torch.stack([(out - end).abs().amax((1, 2, 3)) < 1e-9 for end in ends])
    assert (near.sum(0) == 1).all()
    share = near.double().mean(1)
    want = [RATE**2, RATE * (1 - RATE), RATE * (1 - RATE), (1 - RATE) ** 2]
    assert share.tolist() == pytest.approx(want, abs=0.1)
    assert share.min() > 0
    block.eval()
    assert torch.allclose(block(x), outcomes(block, x, kept=1.0)[-1])


def outcomes(block: Any, x: Tensor, kept: float = 1 / (1 - RATE)) -> list[Tensor]:
    """A block that keeps neither branch, attention, MLP, both; a branch kept is scaled so."""
    if hasattr(block, "position"):
        x = x + convolved(block.position, x)
    found = []
    for mlp in (0.0, kept):
        for attention in (0.0, kept):
            y = x + attention * block.attention(block.norm1(x))
            found.append(y + mlp * block.mlp(block.norm2(y)))
    return found
