"""Times of contestants in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from bilevel.train.files import replacing


def milliseconds(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each contestant, over rounds in which each has one turn, in an order by
    chance, for the memory that one frees slows the next; one round more goes first, to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order, chance = list(contestants), Random(0)
    for turn in range(rounds + 1):
        chance.shuffle(order)
        for name in order:
            start = time.perf_counter()
            contestants[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: round(1e3 * median(each), 3) for name, each in times.items()}


def conditions() -> dict[str, Any]:
    """Where and with what something was measured."""
    libraries = ("bilevel", "torch", "timm", "numpy")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in libraries},
    }


def save(path: Path, command: str, rows: list[dict[str, Any]]) -> None:
    """Write rows, and the conditions they were measured in, as JSON; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        text = json.dumps({"command": command, **conditions(), "rows": rows}, indent=1)
        partial.write_text(text + "\n")
