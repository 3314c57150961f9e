"""Measure the rows of a subject that are still missing; print and save each as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bilevel.arguments import count
from bilevel.bench import dense, model, op, provenance, reading, results, scaling
from bilevel.bench.results import Row
from bilevel.errors import InputError

SUBJECTS: dict[str, Callable[[str, int], dict[str, Callable[[], Row]]]] = {
    "op": op.rows,
    "model": model.rows,
    "dense": dense.rows,
    "scaling": scaling.rows,
    "reading": reading.rows,
}
"""What can be measured. Each takes the device and the number of rounds, and returns its rows by
name, each as a function that measures it."""


def run(
    subject: str, device: str, folder: Path, rounds: int, console: Console, commit: str | None
) -> None:
    """Measure a subject on a device; the rows go to a file in ``folder``.

    Raises ArgumentError if ``rounds`` is below 1; InputError if ``folder`` is a file, or if torch
    finds no GPU for the device ``"cuda"``.
    """
    count("rounds", rounds)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for the results, got the file {folder}; name a folder")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "expected a GPU that torch finds, found none; measure on the CPU with --device cpu"
        )
    conditions = provenance.conditions(device, commit)
    gpu = conditions["gpu"]["name"] if device == "cuda" else None
    path = folder / results.file_name(subject, gpu)
    command = f"bilevel bench {subject} --device {device} --rounds {rounds}"
    commands = {"commands": {subject: command}}
    missing = SUBJECTS[subject](device, rounds)
    measure(missing, path, {**commands, **conditions}, console)


def measure(
    rows: Mapping[str, Callable[[], Row]], path: Path, header: Mapping[str, Any], console: Console
) -> None:
    """Measure rows and save the file after each.

    Rows of the same command at a commit without changes are kept, so a run that was ended early
    goes on. Rows of other subjects in the file are kept if the conditions are the same.
    """
    ((subject, command),) = header["commands"].items()
    commands, done = results.earlier(path, header)
    others = {name: row for name, row in done.items() if name not in rows}
    resumed = commands.get(subject) == command and results.certain(header["commit"])
    ours = {name: row for name, row in done.items() if name in rows and resumed}
    header = {**header, "commands": {**commands, subject: command}}
    for name, measured in rows.items():
        if name in ours:
            console.print(f"{name}: kept, as {path} has it")
            continue
        torch.manual_seed(0)  # times hardly depend on the numbers
        start = time.perf_counter()
        row = {"name": name, **measured()}
        ours[name] = {**row, "took_s": round(time.perf_counter() - start, 1)}
        show(ours[name], console)
        in_order = [ours[each] for each in rows if each in ours]
        results.save(path, header, [*others.values(), *in_order])
    _show_mean(ours.values(), console)
    _show_exponents(list(ours.values()), console)
    console.print(f"saved {path}")


def show(row: Row, console: Console) -> None:
    """Print a row: its plain values in one line, then one line for each group of numbers."""
    title = (f"{name} {value}" for name, value in row.items() if not isinstance(value, dict))
    console.print(", ".join(title))
    for group, values in row.items():
        if isinstance(values, dict) and values and group != "left_out":
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            console.print(f"  {group}: {shown}")
    for name, why in row["left_out"].items():
        console.print(f"  left out: {name}: {why}")


def _show_mean(rows: Iterable[Row], console: Console) -> None:
    name = "forward_backward to gather"
    ratios = [row["ratios"][name] for row in rows if name in row.get("ratios", {})]
    if ratios:
        mean = prod(ratios) ** (1 / len(ratios))
        console.print(f"forward and backward to gather, geometric mean: {mean:.2f}")


def _show_exponents(rows: Sequence[Row], console: Console) -> None:
    scaled = [row for row in rows if row.get("what") == "scaling"]
    for group, fitted in scaling.exponents(scaled).items():
        shown = ", ".join(f"{name} {exponent:.3f}" for name, exponent in fitted.items())
        console.print(f"exponent of H * W, {group}: {shown}")
