"""Run all rows of a benchmark; print and save each as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from bilevel.bench import gpu, measure, model, op
from bilevel.errors import InputError
from bilevel.models.published import biformer_small, biformer_tiny

BATCH = 8
"""Images that whole models take at once on a CPU."""

Row = dict[str, Any]


def run(
    what: Literal["op", "model"], out: Path, rounds: int, console: Console, commit: str | None
) -> None:
    """Measure on the CPU; with a fixed seed, though times hardly depend on the numbers."""
    torch.manual_seed(0)
    header = {"command": f"bilevel bench {what} --rounds {rounds}", **measure.conditions(commit)}
    rows = []
    for row in _op_rows(rounds) if what == "op" else _model_rows(rounds):
        rows.append(row)
        _show(row, console)
        measure.save(out, header, rows)
    name = "forward_backward to gather"
    ratios = [row["ratios"][name] for row in rows if name in row["ratios"]]
    if ratios:
        mean = prod(ratios) ** (1 / len(ratios))
        console.print(f"forward and backward to gather, geometric mean: {mean:.2f}")
    console.print(f"saved {out}")


def run_gpu(folder: Path, rounds: int, console: Console, commit: str | None) -> None:
    """Measure on the GPU; what a run that was ended early has saved is not measured again.

    Raises InputError where torch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "expected a GPU that torch finds, found none; on a CPU there are `bilevel bench op` "
            "and `bilevel bench model`"
        )
    header = {
        "command": f"bilevel bench gpu --rounds {rounds}",
        **measure.conditions(commit),
        **measure.gpu_conditions(),
    }
    path = folder / measure.file_for(header["gpu"]["name"])
    run_plan(gpu.plan(rounds), path, header, console)


def run_plan(
    plan: Mapping[str, Callable[[], Row]], path: Path, header: Mapping[str, Any], console: Console
) -> None:
    """Measure the rows that the file does not have yet; save it after each."""
    rows = {row["name"]: row for row in measure.kept(path, header) if row["name"] in plan}
    for name, measured in plan.items():
        if name in rows:
            console.print(f"{name}: kept, as {path} has it")
            continue
        torch.manual_seed(0)
        start = time.perf_counter()
        row = {"name": name, **measured()}
        rows[name] = {**row, "took_s": round(time.perf_counter() - start, 1)}
        _show(rows[name], console)
        measure.save(path, header, [rows[each] for each in plan if each in rows])
    console.print(f"saved {path}")


def _op_rows(rounds: int) -> Iterator[Row]:
    for shape in op.SHAPES:
        row = op.measure(shape, rounds)
        row["ratios"] = {} if row["left_out"] else _ratios(**row)
        yield row


def _ratios(
    forward_ms: dict[str, float], forward_backward_ms: dict[str, float], **_: Any
) -> dict[str, float]:
    ours = forward_ms["bilevel"]
    others = [ms for name, ms in forward_ms.items() if name != "bilevel"]
    both = forward_backward_ms
    return {
        "forward to best": min(others) / ours,
        "forward to gather": forward_ms["gather"] / ours,
        "forward_backward to gather": both["gather"] / both["bilevel"],
    }


def _model_rows(rounds: int) -> Iterator[Row]:
    yield model.inference(biformer_small, BATCH, rounds)
    yield model.training(biformer_tiny, BATCH, max(3, rounds // 3))


def _show(row: Row, console: Console) -> None:
    """A row of the results, its title and one line for each group."""
    title = (f"{name} {value}" for name, value in row.items() if not isinstance(value, dict))
    console.print(", ".join(title))
    for group, values in row.items():
        if isinstance(values, dict) and values and group != "left_out":
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            console.print(f"  {group}: {shown}")
    for name, why in row["left_out"].items():
        console.print(f"  left out: {name}: {why}")
