"""How a run begins, and how it goes on: from its checkpoint, or in a new folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from bilevel.errors import InputError
from bilevel.models import BiFormerConfig
from bilevel.train import checkpoint, data, folders, recipes, table
from bilevel.train import run as runs
from bilevel.train.config import TrainConfig
from bilevel.train.distributed import World, joined, was_restarted
from bilevel.train.loader import plan_of
from bilevel.train.loop import epochs
from bilevel.train.metrics import Sums
from bilevel.train.run import Run
from bilevel.train.step import State, initial_state

QUIET = Console(quiet=True)


def train(config: TrainConfig, console: Console, auto: bool = False) -> dict[str, float]:
    """Train from the start, in a new folder.

    With ``auto``, and where torchrun starts a process again, a run that has begun in the folder
    ``config.out`` goes on instead.

    Returns what was measured on the test images after the last epoch, by name. Raises InputError
    for what cannot be trained on, or written, and Stopped if a signal ended the run.
    """
    auto = auto or was_restarted()
    if auto and config.out is None:
        raise InputError("expected --out, the folder of the run, to go on with it if it has begun")
    with joined(config.device) as world:
        console = console if world.first else QUIET
        if config.out is not None and auto and world.by_first(lambda: _has_begun(config)):
            return _go_on(_with_settings(config.out, config), world, console)
        return _begin(config, world, console)


def resume(folder: Path, console: Console) -> dict[str, float]:
    """Go on with a run from its newest checkpoint that is whole, to the end of its epochs: the same
    numbers as if it had never stopped. Returns and raises what :func:`train` does."""
    with joined(runs.reopen(folder).config.device) as world:
        run = world.together(lambda: runs.reopen(folder))
        return _go_on(run, world, console if world.first else QUIET)


def _begin(config: TrainConfig, world: World, console: Console) -> dict[str, float]:
    images = world.together(lambda: data.find(config))
    architecture = config.architecture(len(images.classes), images.in_chans)
    state = _new_state(config, architecture, images, world)
    run = world.by_first(lambda: runs.create(config, architecture, images.summary()))
    console.print(
        f"training {config.model}, drop path {run.config.drop_path}, on {config.data}, "
        f"run folder {run.folder}"
    )
    _say([*recipes.in_words(run.config), *images.notes], console)
    return epochs(run, images, state, [], None, world, console)


def _go_on(run: Run, world: World, console: Console) -> dict[str, float]:
    images = world.together(lambda: runs.find_data(run))
    path, notes = world.by_first(lambda: _newest(run))
    state = _new_state(run.config, run.architecture, images, world)
    sums: Sums | None = None
    rows: list[table.Row] = []
    if path is not None:
        saved = world.together(lambda: checkpoint.read(path, run.config.device))
        notes = [*notes, *world.together(lambda: runs.check_settings(run, saved.position))]
        state, sums = checkpoint.restore(state, saved, path)
        world.by_first(lambda: runs.write_config(run))  # epochs may be others than when it began
        if saved.position.epoch:  # else there may be no table yet
            rows = world.by_first(lambda: table.read(run.table, saved.position.epoch))
    console.print(
        f"going on after epoch {len(rows)} of {run.config.epochs}, step {state.step}, "
        f"run folder {run.folder}"
    )
    _say([*notes, *images.notes], console)
    return epochs(run, images, state, rows, sums, world, console)


def _new_state(
    config: TrainConfig, architecture: BiFormerConfig, images: data.Data, world: World
) -> State:
    plan = world.together(lambda: plan_of(config, images, world.ranks, world.rank))
    torch.manual_seed(config.seed)
    model = world.together(lambda: runs.build_model(config, architecture))
    return initial_state(model, config, plan.steps_per_epoch, world)


def _newest(run: Run) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, None if a run ended before its first."""
    found, notes = checkpoint.newest(run.checkpoints)
    if found is None and (run.folder / runs.EARLIER).is_file():
        raise InputError(
            f"the checkpoint in {run.folder} is of an earlier version, whose models can be tested "
            "and used, but not trained further; begin a new run"
        )
    return found, notes


def _has_begun(config: TrainConfig) -> bool:
    return config.out is not None and folders.is_run(config.out)


def _with_settings(folder: Path, config: TrainConfig) -> Run:
    """The run in a folder, with the settings that are asked for now."""
    run = runs.reopen(folder)
    architecture = config.architecture(run.architecture.num_classes, run.architecture.in_chans)
    asked = replace(runs.settled(config, architecture), out=folder)
    return replace(run, config=asked, architecture=architecture)


def _say(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(line)
