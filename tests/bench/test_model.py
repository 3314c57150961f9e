"""The rows of ``bilevel bench model``, and where their time goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bilevel.bench import model, profiler
from bilevel.cli import main
from bilevel.models import BiFormer, BiFormerConfig


def small() -> BiFormer:
    """56 x 56, 28 x 28, 14 x 14 and 7 x 7 tokens, one block each."""
    return BiFormer(
        BiFormerConfig(embed_dims=(16, 16, 16, 16), depths=(1, 1, 1, 1), head_dim=8, drop_path=0.0)
    )


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    swin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
    monkeypatch.setattr("timm.create_model", lambda name: swin)
    for name in ("biformer_small", "biformer_tiny"):
        monkeypatch.setattr(model, name, small)


def test_rows_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.BATCH, "cpu", 2)
    main(["bench", "model", "--rounds", "1", "--out", str(tmp_path)])
    saved = json.loads((tmp_path / "cpu-model.json").read_text())
    assert saved["commands"] == {"model": "bilevel bench model --device cpu --rounds 1"}
    inference, training = saved["rows"]
    speed = inference["images_per_s"]
    assert inference["ratios"]["eager to gather"] == pytest.approx(
        speed["bilevel"] / speed["gather"], rel=1e-2
    )
    assert training["ratios"].keys() == {"eager to gather", "eager to swin"}
    assert not inference["left_out"]
    assert not training["left_out"]
    for row in (inference, training):
        ours, theirs = row["bilevel_kernels_ms"], row["swin_kernels_ms"]
        assert ours.keys() == theirs.keys() == {*profiler.KINDS, profiler.REST}
        assert min(ours.values()) > 0
        assert theirs["linear layers"] > 0
        assert theirs["routing and attention"] == 0  # of the stand-in above


def test_rows_of_a_gpu_have_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*model.rows("cuda", 15)] == [
        "BiFormer-S, inference",
        "BiFormer-T, training",
        "BiFormer-T, inference",
        "BiFormer-S, training",
    ]


def test_time_of_kernels_by_kind() -> None:
    x = torch.rand(64, 64, requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        torch.autograd.backward((x @ x).sum())
        return (x,)

    found = profiler.milliseconds_by_kind(step)
    assert found["linear layers"] > 0
    assert found[profiler.REST] > 0
    assert found["routing and attention"] == found["convolutions"] == found["GELU and norms"] == 0
