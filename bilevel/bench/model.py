"""Whole models beside the gather formulation and beside a Swin transformer of timm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.bench.gather import gather_formulation
from bilevel.bench.measure import milliseconds
from bilevel.models.published import biformer_small, biformer_tiny

SWIN = "swin_tiny_patch4_window7_224"


def inference(batch: int, rounds: int) -> dict[str, Any]:
    """BiFormer-S: images per second, eager and compiled."""
    ours = biformer_small().eval()
    eager: dict[str, nn.Module] = {
        "bilevel": ours,
        "gather": gather_formulation(ours),
        "swin": timm.create_model(SWIN).eval(),
    }
    compiled: dict[str, Callable[..., Tensor]] = {
        f"{name} compiled": torch.compile(model) for name, model in eager.items()
    }
    images = torch.randn(batch, 3, 224, 224)
    times = {}
    with torch.no_grad():
        for models in (eager, compiled):
            runs = {name: partial(model, images) for name, model in models.items()}
            times.update(milliseconds(runs, rounds))
    return {
        "what": "inference",
        "model": "biformer_small",
        "batch": batch,
        "images_per_s": _images_per_second(times, batch),
        "ratios": {
            "eager to gather": times["gather"] / times["bilevel"],
            "compiled to gather": times["gather"] / times["bilevel compiled"],
            "compiled to gather compiled": times["gather compiled"] / times["bilevel compiled"],
            "eager to swin": times["swin"] / times["bilevel"],
            "compiled to swin compiled": times["swin compiled"] / times["bilevel compiled"],
        },
    }


def training(batch: int, rounds: int) -> dict[str, Any]:
    """BiFormer-T: images per second through forward, backward and step of the optimizer."""
    ours = biformer_tiny()
    models = {"bilevel": ours, "gather": gather_formulation(ours)}
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))
    steps = {name: _training_step(model, images, labels) for name, model in models.items()}
    times = milliseconds(steps, rounds)
    return {
        "what": "training",
        "model": "biformer_tiny",
        "batch": batch,
        "images_per_s": _images_per_second(times, batch),
        "ratios": {"eager to gather": times["gather"] / times["bilevel"]},
    }


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()

    return step


def _images_per_second(times: dict[str, float], batch: int) -> dict[str, float]:
    return {name: round(1e3 * batch / each, 3) for name, each in times.items()}
