"""How the cost of attention grows with the map: operations, and time, with as many regions as
:func:`bilevel.plan` says, beside full attention. One row for each size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log
from statistics import linear_regression
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bilevel.bench.baselines import full_attention
from bilevel.bench.comparison import Step, compare
from bilevel.bench.results import Row
from bilevel.cost import plan
from bilevel.ops import bra

SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Tokens on each axis of the maps whose operations are counted."""
TIMED = (64, 96, 128, 192, 256)
"""Those that are timed too."""
TOPK, HEADS, HEAD_DIM = 4, 1, 32
OTHERS = (1 / 2, 2 / 3, 4 / 5, 5 / 4, 3 / 2, 2)
"""Numbers of regions that are timed besides the plan's, as multiples of it."""

CALLS = 100
"""The most calls in a turn."""

PAPER, DENSE = 4 / 3, 2.0
"""The exponents to expect, of BRA (the paper's complexity analysis) and of full attention."""


def rows(device: str, rounds: int) -> dict[str, Callable[[], Row]]:
    """All rows by name, each as a function that measures it."""
    return {f"{size} x {size}": partial(row, size, device, rounds) for size in SIZES}


def row(size: int, device: str, rounds: int) -> Row:
    """Operations of a map of ``size`` x ``size`` tokens and, at some sizes, milliseconds."""
    planned = plan((size, size), TOPK)
    found: Row = {
        "what": "scaling",
        "tokens": size**2,
        "regions": planned.regions,
        "flops": counted(size, planned.regions),
        "left_out": {},
    }
    return found | (_times(size, planned.regions, device, rounds) if size in TIMED else {})


def counted(size: int, regions: int) -> dict[str, int]:
    """Operations of routing and attention, and of full attention: matrix products, by torch's
    counter, which computes nothing here."""
    q, k, v = torch.empty((3, 1, size, size, HEADS, HEAD_DIM), device="meta")
    calls: dict[str, Callable[..., Tensor]] = {
        "bra": partial(bra, topk=TOPK, regions=regions),
        "dense": full_attention,
    }
    found = {}
    for name, call in calls.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(q, k, v)
        found[name] = counter.get_total_flops()
    return found


def _times(size: int, regions: int, device: str, rounds: int) -> Row:
    """Milliseconds with the plan's number of regions and with others, and of full attention."""
    q, k, v = torch.randn(3, 1, size, size, HEADS, HEAD_DIM, device=device)
    tried = sorted({regions, *(round(regions * each) for each in OTHERS)})
    calls = {
        str(number): partial(bra, topk=TOPK, regions=number) for number in tried if number <= size
    }
    ready = {name: partial(_steps, call, q, k, v) for name, call in calls.items()}
    ours = compare(ready, rounds, device)
    # A call may take seconds, and then its time varies little.
    whole = {"dense": partial(_steps, full_attention, q, k, v)}
    theirs = compare(whole, max(3, rounds // 5), device)
    times = {"bra": ours.milliseconds.get(str(regions)), **theirs.milliseconds}
    return {
        "milliseconds": {name: ms for name, ms in times.items() if ms is not None},
        "by_regions_ms": ours.milliseconds,
        "left_out": {**ours.left_out, **theirs.left_out},
    }


def _steps(call: Callable[..., Tensor], *arrays: Tensor) -> list[Step]:
    """As many calls as there may be in one turn: a short one would be hard to time."""

    def step() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (call(*arrays),)

    return [step] * CALLS


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The fitted exponent of H * W of each number, by group: the slope of the line through the
    logarithms. A number that fewer than two rows have is left out."""
    found: dict[str, dict[str, float]] = {}
    for group in ("flops", "milliseconds"):
        names = dict.fromkeys(name for each in rows for name in each.get(group, {}))
        for name in names:
            points = [
                (log(each["tokens"]), log(each[group][name]))
                for each in rows
                if name in each.get(group, {})
            ]
            if len(points) > 1:
                slope = linear_regression(*zip(*points, strict=True)).slope
                found.setdefault(group, {})[name] = slope
    return found


def lost(row: Mapping[str, Any]) -> tuple[int, float]:
    """The number of regions that was the fastest at a size, and how many times as long as with it
    a call with the plan's number took."""
    times = row["by_regions_ms"]
    fastest = min(times, key=times.__getitem__)
    return int(fastest), times[str(row["regions"])] / times[fastest]
