"""The loop: epochs of steps and tests, from the start or from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from bilevel.train import checkpoint, data, draws, pictures, recipes, table
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.loader import InOrder, Planned, plan_of
from bilevel.train.metrics import Sums
from bilevel.train.plan import Plan
from bilevel.train.progress import Display, display
from bilevel.train.run import Run, build_model, check_settings, create, find_data, reopen
from bilevel.train.step import State, evaluate, evaluate_average, initial_state, step
from bilevel.train.table import Row

SHOWN = 10
"""Steps from one look at the metrics to the next: each look waits for the device."""


class Training(NamedTuple):
    """A run, and what its epochs use again and again."""

    run: Run
    plan: Plan
    batches: Iterator[Batch]
    test: InOrder
    display: Display


def train(config: TrainConfig, console: Console) -> dict[str, float]:
    """Train from the start, in a new folder.

    Returns what was measured on the test images after the last epoch, by name.
    """
    images = data.find(config)
    architecture = config.architecture(len(images.classes), images.in_chans)
    torch.manual_seed(config.seed)
    model = build_model(config, architecture)
    state = initial_state(model, config, plan_of(config, images).steps_per_epoch)
    run = create(config, architecture, images.summary())
    console.print(
        f"training {config.model}, drop path {run.config.drop_path}, on {config.data}, "
        f"run folder {run.folder}"
    )
    _say([*recipes.in_words(run.config), *images.notes], console)
    return _epochs(run, images, state, [], console)


def resume(folder: Path, console: Console) -> dict[str, float]:
    """Go on with a run from its checkpoint, to the end of its epochs: the same numbers as if it
    had never stopped. Returns what :func:`train` does."""
    run = reopen(folder)
    images = find_data(run)
    model = build_model(run.config, run.architecture)
    state = initial_state(model, run.config, plan_of(run.config, images).steps_per_epoch)
    state, position = checkpoint.restore(state, run.checkpoint, run.config.device)
    changes = check_settings(run, position)
    epoch = position.epoch
    rows = table.read(run.table, epoch)
    console.print(f"going on after epoch {epoch} of {run.config.epochs}, run folder {run.folder}")
    _say([*changes, *images.notes], console)
    return _epochs(run, images, state, rows, console)


def _say(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(line)


def _epochs(
    run: Run, images: data.Data, state: State, rows: list[Row], console: Console
) -> dict[str, float]:
    """The epochs that ``rows`` does not have yet, each ended by a checkpoint and a row."""
    import matplotlib  # noqa: F401 # what draws the end of a run is there before its first epoch

    plan, test = plan_of(run.config, images), InOrder(images, run.config)
    steps = run.config.epochs * plan.steps_per_epoch
    batches = Planned(images, plan, run.config).steps(state.step, steps)
    with display(console, state.step, steps) as shown, closing(batches):
        training = Training(run, plan, batches, test, shown)
        for epoch in range(len(rows) + 1, run.config.epochs + 1):
            state, row = _epoch(training, state, epoch)
            rows = [*rows, row]
            # In this order: of a table that is ahead of the checkpoint, the last row is redone.
            table.write(rows, run.table)
            checkpoint.save(run.checkpoint, state, epoch, run.lasting())
    draws.hand_out(state.model, None)
    pictures.save(pictures.curves(rows), run.curves)
    with torch.inference_mode():
        figure = state.task.draw(state.model.eval(), test, images.classes)
    pictures.save(figure, run.predictions)
    return table.measured(rows[-1], "test")


def _epoch(training: Training, state: State, epoch: int) -> tuple[State, Row]:
    """One pass over the training images, then the test images."""
    plan, shown = training.plan, training.display
    begin, lr = time.perf_counter(), state.schedule(state.step)
    total: Sums | None = None
    for batch in islice(training.batches, plan.steps_per_epoch):
        draws.begin_step(state.model, plan, state.step, training.run.config.device)
        state, sums = step(state, batch)
        total = sums if total is None else total + sums
        if state.step % SHOWN == 0:
            shown.update(state.step, epoch, total.means(), _speed(total, begin))
    assert total is not None, "a training set is never empty"
    train, speed = total.means(), _speed(total, begin)
    test = evaluate(state.task, state.model, training.test)
    shown.update(state.step, epoch, train, speed)
    ema = evaluate_average(state, training.test)
    shown.epoch(epoch, {"train": train, "test": test, "ema": ema}, speed)
    return state, table.row(epoch, lr, train, test, ema, speed)


def _speed(total: Sums, begin: float) -> float:
    """Images per second."""
    return total.images / (time.perf_counter() - begin)
