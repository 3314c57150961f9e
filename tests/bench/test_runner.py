"""A run saves each row, goes on where it was ended, and shares a GPU's file with other subjects."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel.bench import provenance, results, roofline, runner
from bilevel.bench.results import Row
from bilevel.cli import main
from bilevel.cli.console import CONSOLE
from tests.bench.stand_ins import H200

HEADER: dict[str, Any] = {
    "commands": {"op": "bilevel bench op --device cuda --rounds 15"},
    "date": "2026-11-30",
    "commit": "c0ffee",
    "torch": "2.11.0",
    "gpu": H200._asdict(),
}


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    def row(name: str) -> Row:
        measured.append(name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {"left_out": {}}

    measured: list[str] = []
    rows = {name: partial(row, name) for name in ("first", "second", "third")}
    path = tmp_path / "new" / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        runner.measure(rows, path, HEADER, CONSOLE)
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in HEADER} == json.loads(json.dumps(HEADER))
    assert [each["name"] for each in saved["rows"]] == ["first"]
    runner.measure(rows, path, {**HEADER, "date": "2026-12-01"}, CONSOLE)
    assert measured == ["first", "second", "second", "third"]
    assert [each["name"] for each in json.loads(path.read_text())["rows"]] == list(rows)
    assert len(results.earlier(path, HEADER)[1]) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "another"},
        {"commit": None},  # another time it may be other code
        {"commit": "c0ffee-dirty"},
        {"torch": "2.15.0"},
        {"gpu": {"name": "another"}},
        {"commands": {"op": "bilevel bench op --device cuda --rounds 3"}},
    ],
)
def test_rows_measured_otherwise_are_measured_again(change: dict[str, Any], tmp_path: Path) -> None:
    def row() -> Row:
        measured.append(1)
        return {"left_out": {}}

    measured: list[int] = []
    path = tmp_path / "gpu.json"
    runner.measure({"first": row}, path, HEADER, CONSOLE)
    for _ in range(2):
        runner.measure({"first": row}, path, HEADER, CONSOLE)
    assert len(measured) == 1
    changed = {**HEADER, **change}
    runner.measure({"first": row}, path, changed, CONSOLE)
    assert len(measured) == 2
    if not results.certain(changed["commit"]):
        runner.measure({"first": row}, path, changed, CONSOLE)
        assert len(measured) == 3


@pytest.mark.parametrize("commit", ["c0ffee", "c0ffee-dirty", None])
def test_subjects_share_the_file_of_a_gpu(
    commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def subject(*names: str) -> Callable[[str, int], dict[str, Callable[[], Row]]]:
        return lambda device, rounds: {name: lambda: {"left_out": {}} for name in names}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(roofline, "this_gpu", lambda: H200)
    monkeypatch.setattr(roofline, "reached", lambda device: {"copied_bytes_per_s": 1.0})
    monkeypatch.setattr(provenance, "checkout", lambda package: commit)
    monkeypatch.setattr(
        runner, "SUBJECTS", {"op": subject("one", "two"), "model": subject("whole")}
    )
    for what in ("op", "model", "op"):
        main(["bench", what, "--device", "cuda", "--rounds", "2", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert path.name == "nvidia-h200.json"
    saved = json.loads(path.read_text())
    assert {row["name"] for row in saved["rows"]} == {"one", "two", "whole"}
    assert saved["commands"] == {
        "op": "bilevel bench op --device cuda --rounds 2",
        "model": "bilevel bench model --device cuda --rounds 2",
    }
    assert saved["gpu"]["copied_bytes_per_s"] == 1.0
    later = ["--out", str(tmp_path), "--commit", "later"]
    main(["bench", "model", "--device", "cuda", *later])
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["whole"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["everything"], "Unrecognized options: everything. Available subcommands: op, model"),
        ([], "Expected one of {op, model, "),
        (["op", "--device", "cuda"], "expected a GPU that torch finds, found none"),
        (["op", "--rounds", "0"], "expected rounds to be an integer of at least 1, got 0"),
        (["op", "--out", __file__], "expected a folder for the results, got the file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *args])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
