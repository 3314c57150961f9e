"""Run all rows of a benchmark, print each as it comes, save them at the end."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from bilevel.bench import measure, model, op

BATCH = 8


def run(what: Literal["op", "model"], out: Path, rounds: int, console: Console) -> None:
    """Measure and save; with a fixed seed, though times hardly depend on the numbers."""
    torch.manual_seed(0)
    rows = []
    for row in _op_rows(rounds) if what == "op" else _model_rows(rounds):
        rows.append(row)
        for line in _lines(row):
            console.print(line)
    if what == "op":
        ratios = [row["ratios"]["forward_backward to gather"] for row in rows]
        mean = prod(ratios) ** (1 / len(ratios))
        console.print(f"forward and backward to gather, geometric mean: {mean:.2f}")
    measure.save(out, f"bilevel bench {what} --rounds {rounds}", rows)
    console.print(f"saved {out}")


def _op_rows(rounds: int) -> Iterator[dict[str, Any]]:
    for shape in op.SHAPES:
        row = op.measure(shape, rounds)
        forward, both = dict(row["forward_ms"]), row["forward_backward_ms"]
        ours, gather = forward.pop("bilevel"), forward["gather"]
        row["ratios"] = {
            "forward to best": min(forward.values()) / ours,
            "forward to gather": gather / ours,
            "forward_backward to gather": both["gather"] / both["bilevel"],
        }
        yield row


def _model_rows(rounds: int) -> Iterator[dict[str, Any]]:
    yield model.inference(BATCH, rounds)
    yield model.training(BATCH, max(3, rounds // 3))


def _lines(row: dict[str, Any]) -> Iterator[str]:
    """A row of the results, its title and one line for each group of numbers."""
    yield ", ".join(f"{name} {value}" for name, value in row.items() if not isinstance(value, dict))
    for group, numbers in row.items():
        if isinstance(numbers, dict):
            shown = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
            yield f"  {group}: {shown}"
