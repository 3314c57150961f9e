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
from bilevel.bench import kernels, op, report, timing
from bilevel.bench.contest import Step, contest
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


def test_the_median_of_turns() -> None:
    times = iter([9.0, 1.0, 2.0, 5.0])  # the first turn, to warm up, does not count
    turns = {"one": timing.Turn(lambda: None, calls=4)}
    found = timing.milliseconds(turns, 3, lambda run: next(times), {})
    assert found == {"one": 500.0}


def test_who_fails_is_named_and_the_others_go_on() -> None:
    def ready() -> list[Step]:
        raise ValueError("expected more\n  than this")

    def step() -> tuple[torch.Tensor, ...]:
        calls.append(len(calls))
        if len(calls) > 4:
            raise torch.OutOfMemoryError("of memory")
        return ()

    calls: list[int] = []
    entrants = {"never": ready, "late": lambda: [step], "fine": lambda: [lambda: ()]}
    times, extra, left_out = contest(entrants, 5, "cpu")
    assert times.keys() == {"fine"}
    assert left_out == {
        "never": "ValueError: expected more than this",
        "late": "OutOfMemoryError: of memory",
    }
    assert len(calls) == 5
    assert not extra


def run(what: str, out: Path) -> dict[str, Any]:
    main(["bench", what, "--rounds", "1", "--out", str(out)])
    saved: dict[str, Any] = json.loads(out.read_text())
    assert saved["command"] == f"bilevel bench {what} --rounds 1"
    assert {"date", "torch", "threads", "commit"} <= saved.keys()
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
    assert first["left_out"] == {}
    assert "geometric mean" in capsys.readouterr().out


def test_bench_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    swin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
    monkeypatch.setattr(timm, "create_model", lambda name: swin)
    monkeypatch.setattr(report, "BATCH", 2)
    for name in ("biformer_small", "biformer_tiny"):
        monkeypatch.setattr(report, name, small)
    inference, training = run("model", tmp_path / "model.json")["rows"]
    speed = inference["images_per_s"]
    assert inference["ratios"]["eager to gather"] == pytest.approx(
        speed["bilevel"] / speed["gather"], rel=1e-2
    )
    assert training["ratios"].keys() == {"eager to gather", "eager to swin"}
    assert not inference["left_out"]
    assert not training["left_out"]
    for row in (inference, training):
        ours, theirs = row["bilevel_kernels_ms"], row["swin_kernels_ms"]
        assert ours.keys() == theirs.keys() == {*kernels.KINDS, kernels.REST}
        assert min(ours.values()) > 0
        assert theirs["linear layers"] > 0
        assert theirs["attention"] == 0  # of the stand-in above


def test_time_of_kernels_by_kind() -> None:
    x = torch.rand(64, 64, requires_grad=True)

    def step() -> tuple[torch.Tensor, ...]:
        (x @ x).sum().backward()
        return (x,)

    found = kernels.milliseconds_by_kind(step)
    assert found["linear layers"] > 0
    assert found[kernels.REST] > 0
    assert found["attention"] == found["convolutions"] == found["GELU and norms"] == 0


def test_bench_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "everything"])
    assert "op" in capsys.readouterr().err
