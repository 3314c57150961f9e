"""The operator, and attention alone, beside other ways to compute them: one row for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch

from bilevel.bench.candidates import Candidate, attentions, formulations, operators, steps
from bilevel.bench.comparison import Comparison, compare
from bilevel.bench.results import Row
from bilevel.bench.roofline import floors, this_gpu
from bilevel.bench.shapes import SHAPES, Inputs, Shape, inputs, sets_beyond_cache

PASSES = ("forward", "forward_backward")

RATIOS = {
    "forward_ms": ("gather", "gather compiled", "flex"),
    "forward_backward_ms": ("gather", "gather compiled", "gather deterministic", "flex"),
    "called_forward_ms": ("gather", "flex"),
    "called_forward_backward_ms": ("gather", "gather deterministic", "flex"),
    "attention_forward_ms": ("flex", "flash", "cudnn"),
    "attention_forward_backward_ms": ("flex", "flash", "cudnn"),
}
"""On a GPU, the baselines to which each group of times has a ratio."""


def rows(device: str, rounds: int) -> dict[str, Callable[[], Row]]:
    """All rows by name, each as a function that measures it."""
    measure = on_gpu if device == "cuda" else on_cpu
    return {name: partial(measure, shape, rounds) for name, shape in SHAPES[device].items()}


def on_cpu(shape: Shape, rounds: int) -> Row:
    """The operator beside the gather formulation, and its formulations apart."""
    arrays = inputs(shape, "cpu")
    measured = passes(formulations(shape), arrays, (rounds, max(3, rounds // 3)), "cpu")
    row = {"what": "operator", **shape._asdict(), **groups(measured)}
    return {**row, "ratios": cpu_ratios(row)}


def on_gpu(shape: Shape, rounds: int, device: str = "cuda") -> Row:
    """The operator and attention alone, as the GPU computes them; the operator as it is called."""
    torch.compiler.reset()  # else one shape after the other counts as compiling again and again
    gpu = this_gpu() if device == "cuda" else None
    arrays = inputs(shape, device, sets_beyond_cache(shape, gpu.l2_bytes) if gpu else 1)
    operator, attention = (found(shape, arrays[0][0]) for found in (operators, attentions))
    measured = partial(passes, inputs=arrays, rounds=(rounds, rounds), device=device)
    on_device = measured(operator, graphs=True)
    parts = [groups(on_device), groups(measured(attention, graphs=True), "attention_")]
    if device == "cuda":
        parts.append(groups(measured(operator), "called_"))
    row = {
        "what": "operator",
        **shape._asdict(),
        **{name: group for part in parts for name, group in part.items()},
        "left_out": {name: why for part in parts for name, why in part["left_out"].items()},
        **{f"{name}_extra_bytes": each.extra_bytes for name, each in on_device.items()},
        "floor_ms": floors(gpu, shape) if gpu else {},
    }
    return {**row, "ratios": gpu_ratios(shape, row)}


def passes(
    candidates: Mapping[str, Candidate],
    inputs: Inputs,
    rounds: tuple[int, int],
    device: str,
    *,
    graphs: bool = False,
) -> dict[str, Comparison]:
    """A comparison for each of the :data:`PASSES`, with its number of rounds."""
    found = {}
    for name, training, turns in zip(PASSES, (False, True), rounds, strict=True):
        ready = {
            who: partial(steps, each, inputs, training=training) for who, each in candidates.items()
        }
        found[name] = compare(ready, turns, device, graphs=graphs)
    return found


def groups(comparisons: Mapping[str, Comparison], prefix: str = "") -> dict[str, Any]:
    """Comparisons as part of a row: the times of each pass, and why a candidate has none."""
    return {
        **{f"{prefix}{name}_ms": each.milliseconds for name, each in comparisons.items()},
        "left_out": {
            f"{who}, {prefix}{name}": why
            for name, each in comparisons.items()
            for who, why in each.left_out.items()
        },
    }


def cpu_ratios(row: Mapping[str, Any]) -> dict[str, float]:
    """How many times as long others take as ``bilevel``; none if a candidate failed."""
    if row["left_out"]:
        return {}
    forward, both = row["forward_ms"], row["forward_backward_ms"]
    best = min(ms for name, ms in forward.items() if name != "bilevel")
    return {
        "forward to best": best / forward["bilevel"],
        "forward to gather": forward["gather"] / forward["bilevel"],
        "forward_backward to gather": both["gather"] / both["bilevel"],
    }


def gpu_ratios(shape: Shape, row: Mapping[str, Any]) -> dict[str, float]:
    """How many times as long baselines take as ``bilevel``, and ``bilevel`` as the floor.

    The "share of saved operations" is the ratio to the fastest full attention, as a part of the
    ratio of their operations.
    """
    found = {
        f"{group.removesuffix('_ms')} to {baseline}": row[group][baseline] / row[group]["bilevel"]
        for group, baselines in RATIOS.items()
        for baseline in baselines
        if {baseline, "bilevel"} <= row.get(group, {}).keys()
    }
    full = [found.get(f"attention_forward to {name}") for name in ("flash", "cudnn")]
    best = min((each for each in full if each), default=None)
    if best:
        saved = prod(shape.grid.spatial) / shape.keys_per_query
        found["share of saved operations"] = best / saved
    for name, floor in row["floor_ms"].items():
        ours = row[f"attention_{name}_ms"].get("bilevel")
        if ours:
            found[f"attention_{name} over floor"] = ours / floor
    return found
