"""Fixtures for tests of the benchmark without a GPU and without a compiler."""

from __future__ import annotations

import pytest
import torch

from tests.bench.stand_ins import Cuda, by_mask


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled functions run as they are, FlexAttention by its mask."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("torch.nn.attention.flex_attention.flex_attention", by_mask)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)
