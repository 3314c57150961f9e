"""Speed and memory of a model in inference on a CPU, each in a process of its own."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from bilevel.bench.attentions.counts import IMAGE_SIZE
from bilevel.bench.attentions.rows import REFERENCE, SUBJECTS
from bilevel.bench.comparison import Step, compare
from bilevel.bench.results import Row

PROCESS = Path("/proc/self")
"""What Linux tells of this process; elsewhere the memory is not measured."""


def speed(name: str, batch: int, rounds: int) -> Row:
    """Images per second, the same as a multiple of BRA's in the layout, and on Linux the bytes that
    the model and a call with a batch take at most."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(_measured, name, batch, rounds).result()


def _measured(name: str, batch: int, rounds: int) -> Row:
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE)
    before = _forget_peak()
    step = _step(SUBJECTS[name].build(), images)
    step()
    peak = {} if before is None else {"peak_bytes": _resident("VmHWM") - before}
    # Both take turns in one run: what else the machine does slows them alike.
    steps = {"reference": _step(SUBJECTS[REFERENCE].build(), images), "measured": step}
    ready = {each: lambda step=step: [step] for each, step in steps.items()}
    times = compare(ready, rounds, "cpu").milliseconds
    return {
        "images_per_s": float(f"{1e3 * batch / times['measured']:.5g}"),
        "to_bra": float(f"{times['reference'] / times['measured']:.4g}"),
        **peak,
    }


def _step(model: nn.Module, images: torch.Tensor) -> Step:
    model.eval()

    def step() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (model(images),)

    return step


def _forget_peak() -> int | None:
    """Let Linux count the highest memory of this process anew; what it has now, in bytes."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(which: str) -> int:
    """Memory of this process in bytes: ``"VmRSS"`` now, ``"VmHWM"`` at its highest."""
    found = re.search(rf"{which}:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found is not None, "Linux says so of every process"
    return int(found[1]) * 1024
