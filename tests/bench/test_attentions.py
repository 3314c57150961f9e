"""``bilevel compare``: the file that it writes, and that what is in it is not measured again."""

from __future__ import annotations

import gzip
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilevel.bench import provenance
from bilevel.bench.attentions import accuracy, run, speed
from bilevel.bench.attentions.rows import SUBJECTS, Subject
from bilevel.bench.results import Row
from bilevel.cli import main
from bilevel.compare import MICRO, build


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of Fashion-MNIST, of a few images, dark ones (0) and bright ones (1)."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    for name, number in (("train", 64), ("t10k", 16)):
        labels = rng.integers(0, 2, number)
        images = rng.integers(0, 100, (number, 28, 28)) + 150 * labels[:, None, None]
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows, and a budget of a few steps of few images."""
    rows = {name: SUBJECTS[name] for name in ("bra", "window")}
    rows["whole"] = Subject("models", "a paper", lambda: build("axial", MICRO, 224))
    for module in ("rows", "run", "speed", "table"):
        monkeypatch.setattr(f"bilevel.bench.attentions.{module}.SUBJECTS", rows)
    budget = replace(accuracy.BUDGET, batch_size=16, lr=3e-3, drop_path=0.0)
    monkeypatch.setattr(accuracy, "BUDGET", budget)


def rows_of(folder: Path) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads((folder / "compare.json").read_text())["rows"]}


@pytest.mark.usefixtures("_small")
def test_counts_are_saved_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def counted(build: Any) -> Row:
        calls.append(build)
        return {"parameters": 5, "macs": 7}

    calls: list[Any] = []
    main(["compare", "--parts", "counts", "--only", "window", "--out", str(tmp_path)])
    assert rows_of(tmp_path)["window"]["counts"]["parameters"] == 28285666
    monkeypatch.setattr(run, "counts", counted)
    main(["compare", "--parts", "counts", "--out", str(tmp_path)])
    assert len(calls) == 2
    found = rows_of(tmp_path)
    assert list(found) == ["bra", "window", "whole"]
    assert found["window"]["counts"]["parameters"] == 28285666
    assert found["whole"] == {
        "name": "whole",
        "group": "models",
        "source": "a paper",
        "counts": {"parameters": 5, "macs": 7},
    }
    assert "saved" in capsys.readouterr().out


@pytest.mark.usefixtures("_small")
def test_accuracy_after_a_small_budget_and_after_an_interruption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(mixer: str, seed: int, *args: Any) -> float:
        if (mixer, seed) in begun or len(begun) == 3:
            raise KeyboardInterrupt
        begun.append((mixer, seed))
        return accuracy.accuracy(mixer, seed, *args) if seed == 0 else seed / 8

    begun: list[tuple[str, int]] = []
    monkeypatch.setattr(run, "accuracy", trained)
    command = ["compare", "--parts", "accuracy", "--epochs", "2", "--data-dir", str(data)]
    command += ["--out", str(tmp_path), "--seeds"]
    main([*command, "1"])
    first = rows_of(tmp_path)
    assert begun == [("bra", 0), ("window", 0)]
    assert {name: row["accuracy"].keys() for name, row in first.items()} == {
        "bra": {"0"},
        "window": {"0"},
    }
    assert all(row["accuracy"]["0"] > 0.9 for row in first.values())
    with pytest.raises(SystemExit, match="130"):
        main([*command, "3"])
    assert rows_of(tmp_path)["bra"]["accuracy"] == {**first["bra"]["accuracy"], "1": 1 / 8}
    assert rows_of(tmp_path)["window"] == first["window"]
    begun.clear()
    main([*command, "2"])
    assert begun == [("window", 1)]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(("part", "goes_on"), [("counts", True), ("speed", False)])
def test_times_alone_depend_on_the_machine(
    part: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "counts", lambda build: {"macs": 1})
    monkeypatch.setattr(run, "speed", lambda *args: {"images_per_s": 1.0})
    command = ["compare", "--parts", part, "--out", str(tmp_path), "--only"]
    main([*command, "bra"])
    conditions = provenance.conditions("cpu")
    changed = {**conditions, "threads": conditions["threads"] + 1}
    monkeypatch.setattr(provenance, "conditions", lambda device: changed)
    with nullcontext() if goes_on else pytest.raises(SystemExit, match="2"):
        main([*command, "window"])
    assert ("window" in rows_of(tmp_path)) == goes_on


@pytest.mark.usefixtures("_small")
def test_another_budget_goes_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "accuracy", lambda *args: 0.5)
    command = ["compare", "--parts", "accuracy", "--out", str(tmp_path), "--epochs"]
    main([*command, "2"])
    saved = (tmp_path / "compare.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([*command, "3"])
    said = capsys.readouterr().err
    assert "expected settings" in said
    assert "give another folder as --out" in said
    assert (tmp_path / "compare.json").read_bytes() == saved


def test_a_seed_gives_the_same_accuracy_again(data: Path) -> None:
    budget = replace(accuracy.BUDGET, epochs=1, batch_size=32, data_dir=data)
    one, same = (accuracy.accuracy("window", 1, budget) for _ in range(2))
    assert one == same
    train, _ = accuracy.splits(budget)
    batches = [next(accuracy._shuffled(train, budget)).images for _ in range(2)]
    assert not batches[0].equal(batches[1])


def test_speed_is_measured_in_a_process_of_its_own() -> None:
    found = speed.speed("BiFormer-T", batch=1, rounds=1)
    assert found["images_per_s"] > 0
    assert found["to_bra"] > 0
    weights = 4 * 13e6
    assert sys.platform != "linux" or weights < found["peak_bytes"] < 10 * weights


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "fourier"], "expected only to be one of 'bra', 'random'"),
        (["--seeds", "0"], "expected seeds to be an integer of at least 1, got 0"),
        (["--parts", "counts", "memory"], "invalid choice 'memory'"),
        (
            ["--parts", "accuracy", "--data-dir", "nowhere"],
            "install Debian's package dataset-fashion",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *args, "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}', '{"parts": {}, "rows": [1]}'])
def test_another_file_in_that_place_is_left_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--parts", "counts", "--only", "axial", "--out", str(tmp_path)])
    assert "expected a file of `bilevel compare`" in capsys.readouterr().err
    assert path.read_text() == content
