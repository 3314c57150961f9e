"""With gradients, a call takes what it may beyond its arguments, however many images there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel_torch import bra
from tests.core.test_cost import Peak

UNIT = 2**19
"""Bytes: of what calls may take here, which is far less than they may in truth."""


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bra, "BOUND", UNIT)
    monkeypatch.setattr(bra, "PART", UNIT // 4)


def peak_of_forward_and_backward(arrays: list[Tensor], **how: Any) -> int:
    leaves = [x.requires_grad_() for x in arrays]
    weights = torch.ones(())
    with Peak() as peak:
        out = bilevel.bra(*leaves, **how)
        torch.autograd.grad(out, leaves, weights.expand_as(out))
    return peak.bytes


@pytest.mark.parametrize(
    ("images", "side", "how"),
    [
        pytest.param(2, 16, {"regions": 4, "topk": 4}, id="matmul"),
        pytest.param(8, 16, {"regions": 4, "topk": 4}, id="matmul, more images"),
        pytest.param(6, 14, {"regions": 7, "topk": 16}, id="dense"),
        pytest.param(16, 14, {"regions": 7, "topk": 16}, id="dense, more images"),
    ],
)
def test_a_training_step_keeps_to_its_bound(images: int, side: int, how: dict[str, int]) -> None:
    arrays = [torch.randn(images, side, side, 2, 16) for _ in range(3)]
    inputs = sum(x.nbytes for x in arrays)
    assert peak_of_forward_and_backward(arrays, **how) <= UNIT + 2 * inputs
