"""What is measured on a GPU: the attention of BiFormer's stages at several sizes, whole models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil, prod
from typing import Any

import torch

from bilevel.bench import model
from bilevel.bench.contestants import attentions, operators
from bilevel.bench.floors import Gpu, Work, floors, this_gpu
from bilevel.bench.op import Inputs, Shape, groups, inputs, passes
from bilevel.models.published import biformer_small, biformer_tiny

HALF = "bfloat16"

SHAPES = {
    "224, stage 1": Shape(128, 56, 7, 1, 2, dtype=HALF),
    "224, stage 2": Shape(128, 28, 7, 4, 4, dtype=HALF),
    "224, stage 3": Shape(128, 14, 7, 16, 8, dtype=HALF),
    "512, stage 1": Shape(16, 128, 8, 1, 2, dtype=HALF),
    "1024, stage 1": Shape(2, 256, 16, 1, 2, dtype=HALF),
    "1024, stage 2": Shape(2, 128, 16, 4, 4, dtype=HALF),
    "1024, stage 3": Shape(2, 64, 16, 16, 8, dtype=HALF),
    "1024, four routes": Shape(1, 256, 16, 4, 2, dtype=HALF),
    # An input for which users of the gather formulation ran out of memory (BiFormer, issue 21).
    "600 x 500, float16": Shape(1, (600, 500), 10, 4, 1, 20, "float16"),
    "600 x 500, float32": Shape(1, (600, 500), 10, 4, 1, 20, "float32"),
}
"""Images of 224 pixels are classified, of 512 segmented, in those of 1024 objects are detected;
stages are BiFormer's."""

BATCH = 128
"""Images of 224 pixels that whole models take at once."""

CACHES = 4
"""Inputs rotate among so many times the level 2 cache."""

RATIOS = (
    ("forward_ms", "gather"),
    ("forward_ms", "gather compiled"),
    ("forward_ms", "flex"),
    ("forward_backward_ms", "gather"),
    ("forward_backward_ms", "gather compiled"),
    ("forward_backward_ms", "gather deterministic"),
    ("forward_backward_ms", "flex"),
    ("called_forward_ms", "gather"),
    ("called_forward_ms", "flex"),
    ("called_forward_backward_ms", "gather"),
    ("called_forward_backward_ms", "gather deterministic"),
    ("called_forward_backward_ms", "flex"),
    ("attention_forward_ms", "flex"),
    ("attention_forward_ms", "flash"),
    ("attention_forward_ms", "cudnn"),
    ("attention_forward_backward_ms", "flex"),
    ("attention_forward_backward_ms", "flash"),
    ("attention_forward_backward_ms", "cudnn"),
)
"""Groups of times, and the contestants that ours are compared with there."""


def plan(rounds: int, device: str = "cuda") -> dict[str, Callable[[], dict[str, Any]]]:
    """All rows by name, to be measured when called; those that matter most come first."""
    shapes = {name: partial(operator, shape, rounds, device) for name, shape in SHAPES.items()}
    inference, training = (
        partial(each, batch=BATCH, rounds=rounds, device=device)
        for each in (model.inference, model.training)
    )
    return {
        **shapes,
        "BiFormer-S, inference": partial(inference, biformer_small),
        "BiFormer-T, training": partial(training, biformer_tiny),
        "BiFormer-T, inference": partial(inference, biformer_tiny),
        "BiFormer-S, training": partial(training, biformer_small),
    }


def operator(shape: Shape, rounds: int, device: str) -> dict[str, Any]:
    """The operator and attention alone, as the GPU computes them; the operator as it is called."""
    torch.compiler.reset()  # else one shape after the other counts as compiling again and again
    gpu = this_gpu() if device == "cuda" else None
    arrays = rotating(shape, device, gpu)
    whole, attention = (
        entrants(shape.topk, shape.regions, arrays[0][0]) for entrants in (operators, attentions)
    )
    measured = partial(passes, inputs=arrays, rounds=(rounds, rounds), device=device)
    on_device = measured(whole, graphs=True)
    parts = [groups(on_device), groups(measured(attention, graphs=True), "attention_")]
    if device == "cuda":
        parts.append(groups(measured(whole), "called_"))
    row = {
        "what": "operator",
        **shape._asdict(),
        **{name: group for part in parts for name, group in part.items()},
        "left_out": {name: why for part in parts for name, why in part["left_out"].items()},
        **{f"{name}_extra_bytes": each.extra_bytes for name, each in on_device.items()},
        "floor_ms": floors(gpu, work(shape)) if gpu else {},
    }
    return {**row, "ratios": ratios(shape, row)}


def rotating(shape: Shape, device: str, gpu: Gpu | None) -> Inputs:
    """So many inputs that the level 2 cache has forgotten the first when the last was read."""
    of_one = 3 * _elements(shape) * getattr(torch, shape.dtype).itemsize
    return inputs(shape, device, 1 + ceil(CACHES * gpu.l2_bytes / of_one) if gpu else 1)


def work(shape: Shape) -> Work:
    return Work(
        queries=_elements(shape) // shape.head_dim,
        keys_each=shape.topk * shape.grid.region_tokens,
        head_dim=shape.head_dim,
        itemsize=getattr(torch, shape.dtype).itemsize,
    )


def _elements(shape: Shape) -> int:
    return shape.batch * prod(shape.grid.spatial) * shape.heads * shape.head_dim


def ratios(shape: Shape, row: Mapping[str, Any]) -> dict[str, float]:
    """How many times as long others take as we do, and we as the floor; of full attention's time
    also the share of its operations that we save it."""
    found = {
        f"{group.removesuffix('_ms')} to {rival}": row[group][rival] / row[group]["bilevel"]
        for group, rival in RATIOS
        if {rival, "bilevel"} <= row.get(group, {}).keys()
    }
    full = [found.get(f"attention_forward to {name}") for name in ("flash", "cudnn")]
    best = min((each for each in full if each), default=None)
    if best:
        saved = prod(shape.grid.spatial) / (shape.topk * shape.grid.region_tokens)
        found["share of saved operations"] = best / saved
    for name, floor in row["floor_ms"].items():
        ours = row[f"attention_{name}_ms"].get("bilevel")
        if ours:
            found[f"attention_{name} over floor"] = ours / floor
    return found
