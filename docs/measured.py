"""What ``bilevel bench`` measured, as Markdown, from the files that it wrote."""

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
"""What a row of the operator says of its maps; sizes and regions are those of an axis."""

NOTHING = (
    "Nothing yet: no GPU was at hand, so there is no file that `bilevel bench gpu` wrote, and a "
    "number without a measurement is none."
)


def benchmark(path: Path, group: str) -> str:
    """One group of numbers in a file; rows are told apart by what is in no group."""
    rows = json.loads(path.read_text())["rows"]
    titles = [name for name, value in rows[0].items() if not isinstance(value, dict)]
    return _table(titles, {tuple(str(row[title]) for title in titles): row[group] for row in rows})


def gpu_benchmarks(folder: Path) -> str:
    """All that the files of GPUs in a folder say; or that there is none."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [part for file in files if "gpu" in file for part in _of_gpu(file)]
    return "\n\n".join(found) or NOTHING


def shown(value: float) -> str:
    """With three digits, or with all that it has before the point."""
    after = 2 - floor(log10(abs(value))) if value else 0
    return f"{value:.{max(0, after)}f}"


def _table(titles: Sequence[str], rows: Mapping[tuple[str, ...], Mapping[str, float]]) -> str:
    """The titles of each row, then its numbers; a column for each that any row has."""
    names = list(dict.fromkeys(name for numbers in rows.values() for name in numbers))
    lines = [
        [*titles, *names],
        ["---"] * len(titles) + ["---:"] * len(names),
        *(
            [*title, *(shown(numbers[name]) if name in numbers else "" for name in names)]
            for title, numbers in rows.items()
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_gpu(file: Mapping[str, Any]) -> Iterator[str]:
    rows = [_readable(row) for row in file["rows"]]
    yield _conditions(file)
    yield "The maps, with sizes and regions on each axis:"
    maps = [(row["name"], *(str(row[each]) for each in SHAPE)) for row in rows if "size" in row]
    yield _table(["", *SHAPE], {row: {} for row in maps})
    for group, title in GPU_TABLES.items():
        having = [row for row in rows if row.get(group)]
        if having:
            yield f"{title}:"
            yield _table([""], {(row["name"],): row[group] for row in having})
    for what in dict.fromkeys(row["what"] for row in rows):
        yield f"Ratios, {what}:"
        yield _ratios([row for row in rows if row["what"] == what])
    left_out = "\n".join(_left_out(rows))
    if left_out:
        yield "Without a number:"
        yield left_out


def _conditions(file: Mapping[str, Any]) -> str:
    gpu = file["gpu"]
    tera = {name: shown(value / 1e12) for name, value in gpu.items() if name.endswith("_per_s")}
    libraries = ("python", "torch", "triton", "cupy", "timm", "bilevel")
    versions = ", ".join(f"{name} {file[name]}" for name in libraries if file[name])
    return (
        f"**{gpu['name']}**, driver {file['driver']}, CUDA {file['cuda']}, {versions}, commit "
        f"`{file['commit']}`; by `{file['command']}` on {file['date']}. Of the memory's "
        f"{tera['memory_bytes_per_s']} TB/s a copy reached {tera['copied_bytes_per_s']}; a product "
        f"of matrices in bfloat16 reached {tera['bfloat16_flops_per_s']} TFLOP/s."
    )


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the least time before the times, and its bytes as mebibytes."""
    changed = dict(row)
    for name, least in row.get("floor_ms", {}).items():
        group = f"attention_{name}_ms"
        changed[group] = {"floor": least, **row[group]}
    for group in ("forward_extra_bytes", "forward_backward_extra_bytes"):
        changed[group] = {who: size / 2**20 for who, size in row.get(group, {}).items()}
    return changed


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each ratio and a column for each row: there are many ratios."""
    names = dict.fromkeys(name for row in rows for name in row["ratios"])
    return _table(
        [""],
        {
            (name,): {row["name"]: row["ratios"][name] for row in rows if name in row["ratios"]}
            for name in names
        },
    )


def _left_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each reason in each row, with the numbers that it cost."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for what, why in row["left_out"].items():
            reasons.setdefault((row["name"], why.replace("`", "'")), []).append(what)
    for (name, why), lost in reasons.items():
        yield f"- {name}: {'; '.join(lost)}: `{why}`"
