"""The loop: epochs of steps and tests, from the start or from any step of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import torch
from rich.console import Console

from bilevel.errors import Stopped
from bilevel.train import data, draws, pictures, report, stopping, table
from bilevel.train.data import Batch
from bilevel.train.distributed import World, whole
from bilevel.train.events import Events, events
from bilevel.train.keeping import Keeper
from bilevel.train.loader import InOrder, Planned, Waiting, plan_of
from bilevel.train.metrics import Sums
from bilevel.train.not_finite import Watch
from bilevel.train.progress import Display, Pace, display
from bilevel.train.reading import Reading
from bilevel.train.run import Run
from bilevel.train.step import State, evaluate, evaluate_average, step
from bilevel.train.table import Row

LOOK = 10
"""Steps from one look at the metrics to the next on a device that works by itself: each look waits
for it."""


@dataclass(frozen=True)
class Training:
    """A run, and what its epochs use again and again."""

    run: Run
    world: World
    planned: Planned
    batches: Iterator[Batch]
    test: InOrder
    display: Display
    keeper: Keeper
    watch: Watch
    reading: Reading
    events: Events | None
    asked: Callable[[], int]
    """Which signal asked the run to end, 0 if none did."""
    every: int
    """Steps from one look to the next."""

    @property
    def steps_per_epoch(self) -> int:
        """As the plan has it."""
        return self.planned.plan.steps_per_epoch


def epochs(
    run: Run,
    images: data.Data,
    state: State,
    rows: Sequence[Row],
    sums: Sums | None,
    world: World,
    console: Console,
) -> dict[str, float]:
    """The epochs that ``rows`` does not have yet, each ended by a row and a checkpoint. The first
    of them has begun where ``sums`` are what was measured in it. Then pictures are drawn.

    Returns what was measured on the test images after the last epoch, by name. Raises Stopped if a
    signal ended the run.
    """
    import matplotlib  # noqa: F401 # what draws the end of a run is there before its first epoch

    rows = list(rows)
    with ExitStack() as stack:
        training = _training(run, images, state.step, world, console, stack)
        for epoch in range(len(rows) + 1, run.config.epochs + 1):
            state, total = _steps(training, state, rows, epoch, sums if world.first else None)
            rows.append(_tested(training, state, epoch, *total))
            training.keeper.after_epoch(state, rows)
            sums = None
    draws.hand_out(state.model, None)
    with whole(state.model):
        world.by_first(lambda: _draw(run, images, state, rows))
    return table.measured(rows[-1], "test")


def _training(
    run: Run, images: data.Data, step: int, world: World, console: Console, stack: ExitStack
) -> Training:
    config = run.config
    plan = plan_of(config, images, world.ranks, world.rank)
    planned, end = Planned(images, plan, config), config.epochs * plan.steps_per_epoch
    return Training(
        run=run,
        world=world,
        planned=planned,
        batches=stack.enter_context(closing(planned.steps(step, end))),
        test=InOrder(images, config, world.ranks, world.rank),
        display=stack.enter_context(display(console, step, end)),
        keeper=Keeper(run, world, plan.steps_per_epoch),
        watch=Watch(run, world, planned, console),
        reading=Reading(run, world, planned, console),
        events=stack.enter_context(events(run.events, step, world.first)),
        asked=stack.enter_context(stopping.asked()),
        every=1 if torch.device(config.device).type == "cpu" else LOOK,
    )


def _steps(
    training: Training, state: State, rows: Sequence[Row], epoch: int, sums: Sums | None
) -> tuple[State, tuple[dict[str, float], Pace]]:
    """The steps of an epoch that are left; what was measured in all of them, and the pace of
    these."""
    total, begin, first = sums, time.perf_counter(), state.step
    plan, end = training.planned.plan, epoch * training.steps_per_epoch

    def speed() -> float:
        return (state.step - first) * plan.batch / (time.perf_counter() - begin)

    waiting = Waiting(islice(training.batches, end - first))
    for batch in waiting:
        draws.begin_step(state.model, plan, state.step, training.run.config.device)
        state, measured = step(state, batch)
        measured = training.watch.counted(state, measured)
        total = measured if total is None else total + measured
        if state.step % training.every == 0 or state.step == end:
            _look(training, state, rows, total)
        if state.step % LOOK == 0:
            _show(training, state, epoch, total.means(), Pace(speed(), waiting.share()))
    return state, (training.world.total(total).means(), Pace(speed(), waiting.share()))


def _show(
    training: Training, state: State, epoch: int, train: Mapping[str, float], pace: Pace
) -> None:
    training.display.update(state.step, epoch, train, pace)
    if training.events is not None:
        training.events.steps(state.step, train, state.schedule(state.step - 1), pace)


def _look(training: Training, state: State, rows: Sequence[Row], total: Sums) -> None:
    """What all processes decide together, now and then: whether to go on, and to save."""
    training.watch.look(state)
    signal, due, unread = training.world.largest(
        training.asked(), training.keeper.is_due(), training.reading.news()
    )
    if unread:
        training.reading.look()
    if signal or due:
        training.keeper.within_epoch(state, rows, total)
    if signal:
        raise Stopped(
            f"asked to end by signal {signal}: saved after step {state.step}; go on by: "
            f"bilevel resume {training.run.folder}",
            signal,
        )


def _tested(
    training: Training, state: State, epoch: int, train: dict[str, float], pace: Pace
) -> Row:
    """The row of an epoch whose steps are done, from what was measured in them."""
    shown, world = training.display, training.world
    lr = state.schedule((epoch - 1) * training.steps_per_epoch)
    test = evaluate(state.task, state.model, training.test, world)
    shown.update(state.step, epoch, train, pace)
    ema = evaluate_average(state, training.test, world)
    shown.epoch(epoch, {"train": train, "test": test, "ema": ema}, pace)
    row = table.row(epoch, lr, train, test, ema, pace.images)
    if training.events is not None:
        training.events.epoch(state.step, row)
    return row


def _draw(run: Run, images: data.Data, state: State, rows: Sequence[Row]) -> None:
    pictures.save(pictures.curves(rows), run.curves)
    with torch.inference_mode():
        every = InOrder(images, run.config)
        figure = state.task.draw(state.model.eval(), every, images.classes)
    pictures.save(figure, run.predictions)
    examine = state.task.examine
    found = None if examine is None else examine(state.model, every, images.classes)
    about = {
        "folder": run.folder,
        "classes": len(run.data.classes),
        "images to train on": run.data.train_images,
        "images to test on": run.data.test_images,
    }
    report.write(run.report, run.config, about, rows, found)
