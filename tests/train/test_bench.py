"""``bilevel bench``: contestants compute the same, and what is saved is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import bilevel
from bilevel.bench import measure, model, op
from bilevel.bench.gather import GatherAttention, gather_bra, gather_formulation
from bilevel.cli import main
from bilevel.models import BiFormer, BiFormerConfig


def small() -> BiFormer:
    """56 x 56, 28 x 28, 14 x 14 and 7 x 7 tokens, one block each."""
    return BiFormer(
        BiFormerConfig(embed_dims=(16, 16, 16, 16), depths=(1, 1, 1, 1), head_dim=8, drop_path=0.0)
    )


def test_the_gather_formulation_is_bra() -> None:
    q, k, v = torch.randn(3, 2, 14, 21, 3, 8, generator=torch.Generator().manual_seed(0))
    got = gather_bra(q, k, v, topk=4, regions=7, scale=0.3)
    want = bilevel.bra(q, k, v, topk=4, regions=7, scale=0.3)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_model_of_the_gather_formulation_is_the_model() -> None:
    torch.manual_seed(0)
    ours = small().eval()
    theirs = gather_formulation(ours)
    assert sum(isinstance(each, GatherAttention) for each in theirs.modules()) == 3
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-5)


def test_the_median_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([9.0, 0.0, 1.0, 0.0, 2.0, 0.0, 5.0])  # the first turn, to warm up, is not timed
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure.milliseconds({"one": lambda: None}, rounds=3) == {"one": 2000.0}


def run(what: str, out: Path) -> dict[str, Any]:
    main(["bench", what, "--rounds", "1", "--out", str(out)])
    saved: dict[str, Any] = json.loads(out.read_text())
    assert saved["command"] == f"bilevel bench {what} --rounds 1"
    assert {"date", "torch", "threads"} <= saved.keys()
    return saved


def test_bench_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(op, "SHAPES", (op.Shape(1, 14, 7, 4, 1), op.Shape(1, 8, 2, 1, 1)))
    first, second = run("op", tmp_path / "new" / "op.json")["rows"]
    assert (first["size"], second["size"]) == (14, 8)
    assert {"gather", "bilevel", "flash", "matmul", "dense"} == first["forward_ms"].keys()
    both = first["forward_backward_ms"]
    assert first["ratios"]["forward_backward to gather"] == both["gather"] / both["bilevel"]
    assert "geometric mean" in capsys.readouterr().out


def test_bench_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(timm, "create_model", lambda name: nn.Flatten())
    for name in ("biformer_small", "biformer_tiny"):
        monkeypatch.setattr(model, name, small)
    inference, training = run("model", tmp_path / "model.json")["rows"]
    speed = inference["images_per_s"]
    assert inference["ratios"]["eager to gather"] == pytest.approx(
        speed["bilevel"] / speed["gather"], rel=1e-2
    )
    assert training["ratios"].keys() == {"eager to gather"}


def test_bench_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "everything"])
    assert "op" in capsys.readouterr().err
