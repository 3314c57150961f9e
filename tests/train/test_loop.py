"""Whole runs: what they leave behind, that they repeat, that they go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from bilevel import InputError
from bilevel.train import checkpoint, loop, start, table
from bilevel.train.config import TrainConfig
from bilevel.train.progress import Display
from bilevel.train.run import reopen
from bilevel.train.schedule import schedule
from bilevel.train.step import State


def same(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights and moments, and measured the same but for speed."""
    left, right = reopen(a), reopen(b)
    rows = [table.read(run.table, run.config.epochs) for run in (left, right)]
    timeless = [[{**row, "img_per_s": 0.0} for row in each] for each in rows]
    weights = [run.checkpoint().read_bytes() for run in (left, right)]
    return weights[0] == weights[1] and timeless[0] == timeless[1]


def test_a_run_leaves_its_files_and_nothing_half_written(trained: Any) -> None:
    assert {path.name for path in trained.folder.iterdir()} == {
        "config.json",
        "data.json",
        "metrics.csv",
        "checkpoints",
        "curves.png",
        "predictions.png",
        "report.html",
        "tensorboard",
    }
    kept = {path.name for path in (trained.folder / "checkpoints").iterdir()}
    assert kept == {f"step-{step}.safetensors" for step in (4, 8, 12)}
    rows = table.read(trained.folder / "metrics.csv", 3)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert table.measured(rows[-1], "test") == trained.test
    assert list(trained.test) == ["loss", "accuracy"]
    for name in ("curves.png", "predictions.png"):
        with Image.open(trained.folder / name) as picture:
            used = [count for count in picture.convert("L").histogram() if count]
        assert len(used) > 1


def test_the_same_run_gives_the_same_bits(
    trained: Any, config: TrainConfig, quiet: Console, tmp_path: Path
) -> None:
    assert start.train(replace(config, out=tmp_path / "again"), quiet) == trained.test
    assert same(trained.folder, tmp_path / "again")


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    trained: Any,
    config: TrainConfig,
    quiet: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = loop._steps

    def stop_in_the_third(
        training: loop.Training, state: State, rows: Any, epoch: int, sums: Any
    ) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return steps(training, state, rows, epoch, sums)

    monkeypatch.setattr(loop, "_steps", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        start.train(replace(config, out=tmp_path / "stopped"), quiet)
    monkeypatch.undo()
    stopped = reopen(tmp_path / "stopped")
    assert len(table.read(stopped.table, 2)) == 2
    assert stopped.checkpoint().read_bytes() != reopen(trained.folder).checkpoint().read_bytes()
    assert start.resume(stopped.folder, quiet) == trained.test
    assert same(trained.folder, stopped.folder)


def test_a_stop_between_table_and_checkpoint_loses_nothing(
    trained: Any,
    config: TrainConfig,
    quiet: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = checkpoint.write

    def stop_after_two(path: Path, content: checkpoint.Content) -> None:
        if content.position.epoch == 3:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        start.train(replace(config, out=tmp_path / "stopped"), quiet)
    monkeypatch.undo()
    assert len((tmp_path / "stopped" / "metrics.csv").read_text().splitlines()) == 4
    assert start.resume(tmp_path / "stopped", quiet) == trained.test
    assert same(trained.folder, tmp_path / "stopped")


@pytest.mark.parametrize("rows", [None, 0, 2])
def test_a_table_without_the_epochs_of_the_checkpoint_is_an_error(
    copied: Path, quiet: Console, rows: int | None
) -> None:
    path = copied / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    if rows is None:
        path.unlink()
    else:
        path.write_text("".join(lines[: rows + 1]))
    with pytest.raises(InputError, match=r"expected the (table|rows) of .*metrics\.csv"):
        start.resume(copied, quiet)


def test_what_is_no_run_cannot_go_on(tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(InputError, match="expected the folder of a run"):
        start.resume(tmp_path, quiet)


def test_the_table_has_the_learning_rate_that_each_epoch_began_with(trained: Any) -> None:
    rate = schedule(reopen(trained.folder).config, steps_per_epoch=4)
    rows = table.read(trained.folder / "metrics.csv", 3)
    assert [row["lr"] for row in rows] == [rate(0), rate(4), rate(8)]


def test_the_bar_moves_after_some_steps_and_at_the_end_of_an_epoch(
    config: TrainConfig, quiet: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Display, "update", lambda self, step, *_: seen.append(step))
    monkeypatch.setattr(loop, "LOOK", 3)
    start.train(replace(config, epochs=2, out=tmp_path / "run"), quiet)
    assert seen == [3, 4, 6, 8]  # of four steps each
