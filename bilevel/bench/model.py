"""Whole models beside the gather formulation and a Swin transformer of timm: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.bench.comparison import Step, compare
from bilevel.bench.gather import gather_formulation
from bilevel.bench.profiler import milliseconds_by_kind
from bilevel.bench.results import Row
from bilevel.models import BiFormer, biformer_small, biformer_tiny

SWIN = "swin_tiny_patch4_window7_224"

RATIOS = (
    ("eager to gather", "bilevel", "gather"),
    ("compiled to gather", "bilevel compiled", "gather"),
    ("compiled to gather compiled", "bilevel compiled", "gather compiled"),
    ("eager to swin", "bilevel", "swin"),
    ("compiled to swin compiled", "bilevel compiled", "swin compiled"),
)
"""The name of a ratio, the model that it is of, and the model that takes so many times as long."""

BATCH = {"cpu": 8, "cuda": 128}
"""Images of 224 x 224 pixels in a batch, by device."""


def rows(device: str, rounds: int) -> dict[str, Callable[[], Row]]:
    """All rows by name, each as a function that measures it; the most important first."""

    def row(
        measure: Callable[[Callable[[], BiFormer], int, int, str], Row],
        build: Callable[[], BiFormer],
    ) -> Callable[[], Row]:
        slow = device == "cpu" and measure is training  # a step takes seconds there
        turns = max(3, rounds // 3) if slow else rounds
        return partial(measure, build, BATCH[device], turns, device)

    most_important = {
        "BiFormer-S, inference": row(inference, biformer_small),
        "BiFormer-T, training": row(training, biformer_tiny),
    }
    if device == "cpu":
        return most_important
    return {
        **most_important,
        "BiFormer-T, inference": row(inference, biformer_tiny),
        "BiFormer-S, training": row(training, biformer_small),
    }


def inference(build: Callable[[], BiFormer], batch: int, rounds: int, device: str) -> Row:
    """Images per second, eager and compiled; on CUDA in bfloat16 by autocast."""
    images = _images(batch, device)
    models = {name: model.eval() for name, model in _models(build, device).items()}

    def step(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad(), _precision(device):
            return (run(images),)

    runs: dict[str, Callable[..., Tensor]] = {**models, **_compiled(models)}
    steps = {name: partial(step, run) for name, run in runs.items()}
    return {"what": "inference", **_row(build, batch, steps, rounds, device)}


def training(build: Callable[[], BiFormer], batch: int, rounds: int, device: str) -> Row:
    """Images per second through forward, backward and the optimizer's step.

    On CUDA in bfloat16 by autocast, and compiled too; to compile it for a CPU takes minutes.
    """
    images, labels = _images(batch, device), torch.randint(1000, (batch,), device=device)
    models = {name: model.train() for name, model in _models(build, device).items()}
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for name, model in models.items()
    }

    def step(run: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer) -> tuple[Tensor]:
        optimizer.zero_grad()
        with _precision(device):
            loss = F.cross_entropy(run(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        return (loss,)

    runs: dict[str, Callable[..., Tensor]] = dict(models)
    if device == "cuda":
        runs.update(_compiled(models))
    steps = {
        name: partial(step, run, optimizers[name.removesuffix(" compiled")])
        for name, run in runs.items()
    }
    return {"what": "training", **_row(build, batch, steps, rounds, device)}


def _models(build: Callable[[], BiFormer], device: str) -> dict[str, nn.Module]:
    import timm  # takes seconds

    ours = build()
    models = {"bilevel": ours, "gather": gather_formulation(ours), "swin": timm.create_model(SWIN)}
    if device == "cpu":
        return models
    return {
        name: model.to(device).to(memory_format=torch.channels_last)
        for name, model in models.items()
    }


def _compiled(models: Mapping[str, nn.Module]) -> dict[str, Callable[..., Tensor]]:
    return {f"{name} compiled": torch.compile(model) for name, model in models.items()}


def _images(batch: int, device: str) -> Tensor:
    images = torch.randn(batch, 3, 224, 224, device=device)
    return images if device == "cpu" else images.to(memory_format=torch.channels_last)


def _precision(device: str) -> AbstractContextManager[Any]:
    return nullcontext() if device == "cpu" else torch.autocast(device, torch.bfloat16)


def _row(
    build: Callable[[], BiFormer], batch: int, steps: Mapping[str, Step], rounds: int, device: str
) -> Row:
    torch.compiler.reset()  # else models of other rows count as compiling again
    ready = {name: lambda step=step: [step] for name, step in steps.items()}
    times, _, left_out = compare(ready, rounds, device)
    return {
        "model": build.__name__,
        "batch": batch,
        "images_per_s": {name: float(f"{1e3 * batch / ms:.5g}") for name, ms in times.items()},
        "ratios": {
            name: times[other] / times[ours]
            for name, ours, other in RATIOS
            if {ours, other} <= times.keys()
        },
        **(_by_kernel(steps, left_out) if device == "cpu" else {}),
        "left_out": left_out,
    }


def _by_kernel(
    steps: Mapping[str, Step], left_out: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Where the time of our model goes, and that of Swin."""
    shown = (name for name in ("bilevel", "swin") if name not in left_out)
    return {f"{name}_kernels_ms": milliseconds_by_kind(steps[name]) for name in shown}
