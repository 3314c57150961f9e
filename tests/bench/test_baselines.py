"""Baselines compute what bilevel computes, and leave torch's settings as they were."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

import bilevel
from bilevel.bench.baselines import deterministic
from bilevel.bench.gather import GatherAttention, gather_bra, gather_formulation
from bilevel.models import BiFormer, BiFormerConfig


def test_the_gather_formulation_is_bra() -> None:
    q, k, v = torch.randn(3, 2, 14, 21, 3, 8, generator=torch.Generator().manual_seed(0))
    got = gather_bra(q, k, v, topk=4, regions=7, scale=0.3)
    want = bilevel.bra(q, k, v, topk=4, regions=7, scale=0.3)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_model_of_the_gather_formulation_is_the_model() -> None:
    torch.manual_seed(0)
    config = BiFormerConfig(
        embed_dims=(16, 16, 16, 16), depths=(1, 1, 1, 1), head_dim=8, drop_path=0.0
    )
    ours = BiFormer(config).eval()
    theirs = gather_formulation(ours)
    assert sum(isinstance(each, GatherAttention) for each in theirs.modules()) == 3
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-5)


def test_deterministic_mode_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Any = torch.utils.deterministic

    def state() -> tuple[Any, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            memory.fill_uninitialized_memory,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    def failing() -> None:
        with deterministic():
            within.append(state())
            raise ZeroDivisionError

    monkeypatch.setattr(memory, "fill_uninitialized_memory", True)
    before = state()
    within: list[tuple[Any, ...]] = []
    with pytest.raises(ZeroDivisionError):
        failing()
    assert within == [(True, False, False, ":4096:8")]
    assert state() == before
