"""Measure what is missing in the table of the comparison, part by part; print each as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from bilevel.arguments import choice
from bilevel.bench.attentions.accuracy import BUDGET, accuracy
from bilevel.bench.attentions.accuracy import settings as accuracy_settings
from bilevel.bench.attentions.counts import IMAGE_SIZE, counts
from bilevel.bench.attentions.rows import SUBJECTS
from bilevel.bench.attentions.speed import speed
from bilevel.bench.attentions.table import Table
from bilevel.bench.results import Row
from bilevel.train.config import TrainConfig

PARTS = ("counts", "speed", "accuracy")


class Plan(NamedTuple):
    """What to measure, and how."""

    only: Sequence[str]
    """Rows by name; none for all."""
    parts: Sequence[str]
    """Of :data:`PARTS`."""
    seeds: int
    """Trainings of each mixer, from as many seeds."""
    budget: TrainConfig = BUDGET
    batch: int = 8
    """Images in a call whose speed is measured."""
    rounds: int = 5
    """Calls of which the median counts."""


class Piece(NamedTuple):
    """One measurement of a row."""

    row: str
    key: str
    """The number that is there once it is done."""
    measure: Callable[[], Row]


def run(plan: Plan, path: Path, console: Console) -> None:
    """Measure all pieces of a plan that the file at ``path`` does not have.

    Raises ArgumentError if a row does not exist, InputError if the file was made in another way.
    """
    names = [choice("only", name, tuple(SUBJECTS)) for name in plan.only] or list(SUBJECTS)
    table = Table(path)
    for part in plan.parts:
        table.begin(part, _settings(part, plan))
        for piece in _pieces(part, plan, names):
            if piece.key in table.rows.get(piece.row, {}).get(part, {}):
                continue
            measured = piece.measure()
            table.put(piece.row, part, measured)
            shown = ", ".join(f"{key} {value:.6g}" for key, value in measured.items())
            console.print(f"{piece.row}, {part}: {shown}")
    console.print(f"saved {path}")


def _settings(part: str, plan: Plan) -> dict[str, Any]:
    if part == "accuracy":
        return accuracy_settings(plan.budget)
    if part == "speed":
        return {"image_size": IMAGE_SIZE, "batch": plan.batch, "rounds": plan.rounds}
    return {"image_size": IMAGE_SIZE}


def _pieces(part: str, plan: Plan, names: Sequence[str]) -> Iterator[Piece]:
    if part == "counts":
        for name in names:
            yield Piece(name, "macs", partial(counts, SUBJECTS[name].build))
    elif part == "speed":
        for name in names:
            yield Piece(name, "images_per_s", partial(speed, name, plan.batch, plan.rounds))
    else:  # all mixers from one seed, then from the next: so an early end leaves a fair table
        for seed in range(plan.seeds):
            for name in names:
                if SUBJECTS[name].group == "mixers":
                    yield Piece(name, str(seed), partial(_trained, plan, name, seed))


def _trained(plan: Plan, name: str, seed: int) -> Row:
    return {str(seed): accuracy(name, seed, plan.budget)}
