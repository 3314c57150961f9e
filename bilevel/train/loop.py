"""The loop around the step: folders, files, progress."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bilevel import files
from bilevel.errors import InputError
from bilevel.models import BiFormer
from bilevel.train import checkpoint, data, pictures
from bilevel.train import config as configs
from bilevel.train.config import MODELS, TrainConfig
from bilevel.train.step import Metrics, State, evaluate, initial_state, step

CONFIG, DATA, CHECKPOINT, TABLE = (
    "config.json",
    "data.json",
    "checkpoint.safetensors",
    "metrics.csv",
)
COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "img_per_s")
Row = dict[str, float]


def train(config: TrainConfig, console: Console) -> float:
    """Train from the start, in a new folder; returns the test accuracy of the last epoch."""
    source = data.load(config)
    torch.manual_seed(config.seed)
    model = build_model(config, len(source.classes), source.in_chans)
    state = initial_state(model, config, _steps_per_epoch(source, config))
    folder = files.new_folder(config.out, Path(config.data).name)
    console.print(f"training {config.model} on {config.data}, run folder {folder}")
    if config.data != data.DIGITS:
        config = replace(config, data=str(Path(config.data).resolve()))
    config = replace(config, out=folder)
    configs.save(config, folder / CONFIG)
    (folder / DATA).write_text(json.dumps(source.summary(), indent=2) + "\n")
    return _epochs(config, source, state, [], console)


def resume(folder: Path, console: Console) -> float:
    """Go on with a run from its checkpoint, to the end of its epochs: the same numbers as if it
    had never stopped."""
    config = configs.load(folder / CONFIG)
    source = load_data(config)
    model = build_model(config, len(source.classes), source.in_chans)
    steps = _steps_per_epoch(source, config)
    state = initial_state(model, config, steps)
    state = checkpoint.restore(state, folder / CHECKPOINT, config.device)
    epoch = state.step // steps
    rows = _read_table(folder / TABLE, epoch)
    console.print(f"going on after epoch {epoch} of {config.epochs}, run folder {folder}")
    return _epochs(config, source, state, rows, console)


def build_model(config: TrainConfig, classes: int, in_chans: int) -> BiFormer:
    """The model a config names, on its device."""
    shape = replace(
        MODELS[config.model], num_classes=classes, in_chans=in_chans, drop_path=config.drop_path
    )
    try:
        return BiFormer(shape).to(config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot put the model on device {config.device!r}: {reason}") from error


class Run(NamedTuple):
    """A trained run."""

    config: TrainConfig
    classes: list[str]
    model: BiFormer


def load_run(folder: Path, device: str | None = None) -> Run:
    """Read a run's folder; ``device`` is where the model goes, None where it was trained.

    Raises InputError if it is not the folder of a run, or has no checkpoint yet, and WeightsError
    if the checkpoint is of another model.
    """
    config = configs.load(folder / CONFIG)
    config = replace(config, device=device or config.device)
    summary = _summary(folder)
    model = build_model(config, len(summary["classes"]), summary["in_chans"])
    tensors, _ = checkpoint.load(folder / CHECKPOINT, config.device)
    checkpoint.load_model(model, tensors, folder / CHECKPOINT)
    return Run(config, summary["classes"], model.eval())


def load_data(config: TrainConfig) -> data.Data:
    """The data of a run.

    Raises InputError if they are not what they were when it began: labels and the images that are
    held out would be others.
    """
    assert config.out is not None
    source, was = data.load(config), _summary(config.out)
    if source.summary() != was:
        raise InputError(
            f"expected the data of the run {config.out}, {was}, in {config.data}, "
            f"got {source.summary()}"
        )
    return source


def _summary(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads((folder / DATA).read_text())
        return {key: summary[key] for key in data.SUMMARY}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"expected the data of a run in {folder / DATA}: {error!r}") from error


def _epochs(
    config: TrainConfig, source: data.Data, state: State, rows: list[Row], console: Console
) -> float:
    """The epochs that ``rows`` does not have yet, each ended by a checkpoint and a row."""
    assert config.out is not None
    folder = config.out
    with _progress(console) as progress:
        for epoch in range(len(rows) + 1, config.epochs + 1):
            state, row = _epoch(config, source, state, epoch, progress)
            rows = [*rows, row]
            # In this order: of a table that is ahead of the checkpoint, the last row is redone.
            _write_table(rows, folder / TABLE)
            checkpoint.save(folder / CHECKPOINT, state)
    pictures.curves(rows, folder / "curves.png")
    sheet = pictures.select(state.model, data.batches(source.test, config))
    pictures.predictions(sheet, source.classes, folder / "predictions.png")
    return rows[-1]["test_accuracy"]


def _epoch(
    config: TrainConfig, source: data.Data, state: State, epoch: int, progress: Progress
) -> tuple[State, Row]:
    """One pass over the training images, then the test images."""
    # All that is random in an epoch comes from this seed, so that a resumed run repeats it.
    seed = config.seed * 1_000_003 + epoch
    torch.manual_seed(seed)
    [task] = progress.task_ids or [_add_task(progress, config, state, source)]
    begin, lr, total = time.perf_counter(), state.schedule(state.step), None
    for batch in data.batches(source.train, config, shuffle_seed=seed):
        state, metrics = step(state, batch)
        total = metrics if total is None else total + metrics
        if state.step % 10 == 0:
            speed = total.images / (time.perf_counter() - begin)
            _show(progress, task, state, epoch, total, speed)
    assert total is not None, "a training set is never empty"
    speed = total.images / (time.perf_counter() - begin)
    test = evaluate(state.model, data.batches(source.test, config))
    _show(progress, task, state, epoch, total, speed)
    progress.console.print(
        f"epoch {epoch:3d}  train loss {total.mean_loss:.4f}  accuracy {total.accuracy:.4f}  "
        f"test loss {test.mean_loss:.4f}  accuracy {test.accuracy:.4f}  {speed:.0f} img/s"
    )
    values = (epoch, lr, total.mean_loss, total.accuracy, test.mean_loss, test.accuracy, speed)
    return state, dict(zip(COLUMNS, values, strict=True))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.3f}"),
        TextColumn("{task.fields[speed]:.0f} img/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _add_task(progress: Progress, config: TrainConfig, state: State, source: data.Data) -> TaskID:
    steps = config.epochs * _steps_per_epoch(source, config)
    return progress.add_task(
        "training", total=steps, completed=state.step, epoch=0, loss=0.0, accuracy=0.0, speed=0.0
    )


def _show(
    progress: Progress, task: TaskID, state: State, epoch: int, total: Metrics, speed: float
) -> None:
    progress.update(
        task,
        completed=state.step,
        epoch=epoch,
        loss=total.mean_loss,
        accuracy=total.accuracy,
        speed=speed,
    )


def _steps_per_epoch(source: data.Data, config: TrainConfig) -> int:
    images = len(source.train)  # type: ignore[arg-type]
    return max(1, images // config.batch_size)


def _write_table(rows: list[Row], path: Path) -> None:
    with files.replacing(path) as partial, partial.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def _read_table(path: Path, epochs: int) -> list[Row]:
    """The rows of the first epochs."""
    try:
        with path.open(newline="") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected the table of a run in {path}: {error!r}") from error
    if len(rows) < epochs:
        raise InputError(f"expected the rows of {epochs} epochs in {path}, got {len(rows)}")
    return rows[:epochs]
