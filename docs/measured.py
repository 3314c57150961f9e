"""What ``bilevel bench`` measured, as Markdown, made from the files that it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

ON_DEVICE = "as the GPU computes it; milliseconds, forward"

GPU_TABLES = {
    "attention_forward_ms": f"Attention under given routes, {ON_DEVICE}",
    "attention_forward_backward_ms": "The same, forward and backward",
    "forward_ms": f"The operator with its routing, {ON_DEVICE}",
    "forward_backward_ms": "The same, forward and backward",
    "called_forward_ms": "The operator as the host calls it; milliseconds, forward",
    "called_forward_backward_ms": "The same, forward and backward",
    "forward_extra_bytes": "Mebibytes of the operator beyond inputs and results, forward",
    "forward_backward_extra_bytes": "The same, forward and backward",
    "images_per_s": "Whole models, in images per second",
}
"""The groups of numbers in a GPU's file that become tables, and their titles."""

SHAPE = ("batch", "size", "regions", "topk", "heads", "head_dim", "dtype")
"""The values of a row that say which shape was measured; size and regions are those of an axis."""

COUNTED = ("routing", "forward", "backward")
"""The passes that ``bilevel bench counts`` counts."""

NOTHING = (
    "Nothing yet: no GPU was at hand, so `bilevel bench` has written no file of one, and a number "
    "is shown only where it was measured."
)


def benchmark(path: Path, group: str) -> str:
    """One group of numbers in a file: a line for each row, or for each number if there are more."""
    rows = [row for row in json.loads(path.read_text())["rows"] if row.get(group)]
    names = {name for row in rows for name in row[group]}
    return _turned(rows, group) if len(names) > len(rows) else _group(rows, group)


def shapes(path: Path) -> str:
    """The shapes that a file's rows of the operator were measured at."""
    return _shapes(json.loads(path.read_text())["rows"])


def gpu_benchmarks(folder: Path) -> str:
    """All tables of all files of GPUs in a folder, or a sentence that there is none."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [part for file in files if "gpu" in file for part in _of_gpu(file)]
    return "\n\n".join(found) or NOTHING


def counts(path: Path) -> str:
    """What a file of ``bilevel bench counts`` says of each pass of each row."""
    rows = json.loads(path.read_text())["rows"]
    lines = [
        ["", "pass", "issue", "exp", "memory", "limit", "floor", "floor / limit"],
        ["---", "---", "---:", "---:", "---:", "---", "---:", "---:"],
        *(_counted(name, row, each) for name, row in rows.items() for each in COUNTED),
    ]
    return _lines(lines)


def _counted(name: str, row: Mapping[str, Any], each: str) -> list[str]:
    numbers = (
        shown(row[f"{each}_{what}"]) if f"{each}_{what}" in row else ""
        for what in ("issue_us", "exp_us", "memory_us", "floor_us", "share_of_floor")
    )
    issue, exp, memory, floor, share = numbers
    return [name, each, issue, exp, memory, row[f"{each}_limit"], floor, share]


def shown(value: float) -> str:
    """A number with three significant digits, and all digits before the point."""
    after = 2 - floor(log10(abs(value))) if value else 0
    return f"{value:.{max(0, after)}f}"


def _table(titles: Sequence[str], rows: Mapping[tuple[str, ...], Mapping[str, float]]) -> str:
    """The titles of each row, then its numbers; a column for each number that any row has."""
    names = list(dict.fromkeys(name for numbers in rows.values() for name in numbers))
    lines = [
        [*titles, *names],
        ["---"] * len(titles) + ["---:"] * len(names),
        *(
            [*title, *(shown(numbers[name]) if name in numbers else "" for name in names)]
            for title, numbers in rows.items()
        ),
    ]
    return _lines(lines)


def _lines(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_gpu(file: Mapping[str, Any]) -> Iterator[str]:
    rows = [_readable(row) for row in file["rows"]]
    yield _conditions(file)
    if any("size" in row for row in rows):
        yield "The shapes, with size and regions of an axis:"
        yield _shapes(rows)
    for group, title in GPU_TABLES.items():
        if any(row.get(group) for row in rows):
            yield f"{title}:"
            yield _group(rows, group)
    for what in dict.fromkeys(row["what"] for row in rows):
        yield f"Ratios, {what}:"
        yield _turned([row for row in rows if row["what"] == what], "ratios")
    left_out = "\n".join(_left_out(rows))
    if left_out:
        yield "Without a number:"
        yield left_out


def _shapes(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each shape; below, the values that all shapes share."""
    shapes = {
        row["name"]: {each: str(row[each]) for each in SHAPE} for row in rows if "size" in row
    }
    values = {each: {shape[each] for shape in shapes.values()} for each in SHAPE}
    vary = [each for each in SHAPE if len(values[each]) > 1 or len(shapes) < 2]
    table = _table(
        ["", *vary], {(name, *(shape[each] for each in vary)): {} for name, shape in shapes.items()}
    )
    shared = ", ".join(f"`{each}` {values[each].pop()}" for each in SHAPE if each not in vary)
    return f"{table}\n\nFor all: {shared}." if shared else table


def _group(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    return _table([""], {(row["name"],): row[group] for row in rows if row.get(group)})


def _turned(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    """A line for each number and a column for each row."""
    names = dict.fromkeys(name for row in rows for name in row[group])
    columns = {row["name"]: row[group] for row in rows}
    return _table(
        [""],
        {
            (name,): {row: numbers[name] for row, numbers in columns.items() if name in numbers}
            for name in names
        },
    )


def _conditions(file: Mapping[str, Any]) -> str:
    gpu = file["gpu"]
    tera = {name: shown(value / 1e12) for name, value in gpu.items() if name.endswith("_per_s")}
    libraries = ("python", "torch", "triton", "cupy", "timm", "bilevel")
    versions = ", ".join(f"{name} {file[name]}" for name in libraries if file[name])
    commands = " and ".join(f"`{command}`" for command in file["commands"].values())
    return (
        f"**{gpu['name']}**, driver {file['driver']}, CUDA {file['cuda']}, {versions}, commit "
        f"`{file['commit']}`; by {commands} on {file['date']}. Of the memory's "
        f"{tera['memory_bytes_per_s']} TB/s a copy reached {tera['copied_bytes_per_s']}; a product "
        f"of matrices in bfloat16 reached {tera['bfloat16_flops_per_s']} TFLOP/s."
    )


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the floor before the times, and with mebibytes for bytes."""
    changed = dict(row)
    for name, least in row.get("floor_ms", {}).items():
        group = f"attention_{name}_ms"
        changed[group] = {"floor": least, **row[group]}
    for group in ("forward_extra_bytes", "forward_backward_extra_bytes"):
        changed[group] = {who: size / 2**20 for who, size in row.get(group, {}).items()}
    return changed


def _left_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each reason in each row, with the numbers that are missing for it."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for what, why in row["left_out"].items():
            reasons.setdefault((row["name"], why.replace("`", "'")), []).append(what)
    for (name, why), lost in reasons.items():
        yield f"- {name}: {'; '.join(lost)}: `{why}`"
