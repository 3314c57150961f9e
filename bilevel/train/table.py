"""The metrics of a run, a row for each epoch, as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from bilevel.errors import InputError
from bilevel.files import replacing

Row: TypeAlias = dict[str, float]
"""An epoch: its number, the learning rate it began with, what was measured in training and in
testing, and the speed of training."""

PARTS = ("train", "test", "ema")
"""What is measured: the model in training and in testing, and its averaged weights in testing."""


def row(
    epoch: int,
    lr: float,
    train: Mapping[str, float],
    test: Mapping[str, float],
    ema: Mapping[str, float],
    img_per_s: float,
) -> Row:
    """The row of an epoch, from what was measured by name; nothing of an average that there is
    not."""
    parts = zip(PARTS, (train, test, ema), strict=True)
    values = {f"{part}_{name}": value for part, of in parts for name, value in of.items()}
    return {"epoch": epoch, "lr": lr, **values, "img_per_s": img_per_s}


def measured(row: Row, part: str) -> dict[str, float]:
    """What a row says of a part, one of :data:`PARTS`, by name."""
    prefix = f"{part}_"
    return {name.removeprefix(prefix): x for name, x in row.items() if name.startswith(prefix)}


def write(rows: list[Row], path: Path) -> None:
    """Write rows, one or more, all with the same names.

    Whatever a number is, it is written as it will be when it was read and is written again.
    """
    with replacing(path) as partial, partial.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(_numbers(row) for row in rows)


def read(path: Path, epochs: int) -> list[Row]:
    """The rows of the first epochs.

    Raises InputError if there are not as many, or if the file is no such table.
    """
    try:
        with path.open(newline="") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected the table of a run in {path}: {error!r}") from error
    if len(rows) < epochs:
        raise InputError(f"expected the rows of {epochs} epochs in {path}, got {len(rows)}")
    return rows[:epochs]


def _numbers(row: Mapping[str, Any]) -> Row:
    return {name: float(value) for name, value in row.items()} | {"epoch": int(row["epoch"])}
