"""The rows of ``bilevel bench op``, on a CPU; all but CUDA's clock and graphs is the same there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from bilevel.bench import op
from bilevel.bench.shapes import SHAPES, Inputs, Shape, inputs
from bilevel.cli import main
from tests.bench.stand_ins import H200, SMALL, Cuda


def test_rows_of_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {"first": Shape(1, 14, 7, 4, 1), "second": Shape(1, 8, 2, 1, 1)}
    monkeypatch.setitem(SHAPES, "cpu", shapes)
    main(["bench", "op", "--rounds", "1", "--out", str(tmp_path / "new")])
    saved = json.loads((tmp_path / "new" / "cpu-op.json").read_text())
    assert saved["commands"] == {"op": "bilevel bench op --device cpu --rounds 1"}
    assert {"date", "torch", "threads", "commit"} <= saved.keys()
    first, second = saved["rows"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert (first["size"], second["size"]) == (14, 8)
    assert {"gather", "bilevel", "flash", "matmul", "dense"} == first["forward_ms"].keys()
    both = first["forward_backward_ms"]
    assert first["ratios"]["forward_backward to gather"] == both["gather"] / both["bilevel"]
    assert first["left_out"] == {}
    assert "geometric mean" in capsys.readouterr().out


def test_dense_is_left_out_where_it_would_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1, 8, 2, 1, 1)
    monkeypatch.setattr("bilevel.bench.candidates.LARGEST_DENSE", 64 * 64 - 1)
    row = op.on_cpu(shape, 1)
    assert {"gather", "bilevel", "flash", "matmul"} == row["forward_ms"].keys()


def test_the_row_of_a_gpu(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[int] = []

    def on_cpu(shape: Shape, device: str, number: int) -> Inputs:
        sets.append(number)
        return inputs(shape, "cpu")

    monkeypatch.setattr(op, "inputs", on_cpu)
    monkeypatch.setattr(op, "this_gpu", lambda: H200)
    row = op.on_gpu(SMALL, 1)
    assert sets == [1 + -(-4 * 50 * 2**20 // (3 * 2 * 256 * 2 * 16 * 4))]
    assert row["attention_forward_ms"]["bilevel"] == 7.0
    assert row["ratios"]["attention_forward over floor"] == 7.0 / row["floor_ms"]["forward"]
    assert row["called_forward_backward_ms"].keys() >= {"gather deterministic", "flex"}
    assert row["forward_backward_extra_bytes"].keys() >= {"bilevel", "gather"}


def test_rows_of_a_gpu_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"first": SMALL, "second": Shape(1, (8, 12), 4, 1, 1, 8)}
    monkeypatch.setitem(SHAPES, "cuda", shapes)
    monkeypatch.setattr(op, "on_gpu", partial(op.on_gpu, device="cpu"))
    rows = {name: measure() for name, measure in op.rows("cuda", 1).items()}
    first, second = rows["first"], rows["second"]
    assert second["size"] == (8, 12)
    for group in ("forward_ms", "forward_backward_ms"):
        assert first[group].keys() >= {"bilevel", "gather", "gather deterministic", "flex"}
        assert first[f"attention_{group}"].keys() >= {"bilevel", "flash", "flex"}
    assert "called_forward_ms" not in first
    ours, theirs = (first["forward_ms"][name] for name in ("bilevel", "gather"))
    assert first["ratios"]["forward to gather"] == theirs / ours
    assert first["left_out"]["triton, forward"].startswith("BackendRefused: backend 'triton'")
    assert "up to 6 tokens in a region" in second["left_out"]["flex, forward"]
