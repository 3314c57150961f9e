"""Compare candidates: make each ready, measure its memory, then time all of them in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bilevel.bench.timing import Clock, Turn, captured, clock_of, milliseconds, recorded

Step: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""One call of a candidate on its own arrays; returns the results."""

TURN_S = 0.02
"""Seconds after which a turn makes no further call: more would not make a median steadier."""


class Comparison(NamedTuple):
    """What was measured of each candidate, by name."""

    milliseconds: dict[str, float]
    """Median time of one call."""
    extra_bytes: dict[str, int]
    """Peak GPU memory beyond inputs and results; empty on a CPU."""
    left_out: dict[str, str]
    """Why a candidate has no time."""


def compare(
    candidates: Mapping[str, Callable[[], Sequence[Step]]],
    rounds: int,
    device: str,
    *,
    graphs: bool = False,
) -> Comparison:
    """Time each candidate's steps: calls that are alike but for their arrays.

    With ``graphs``, on CUDA, only the device's work counts, as a CUDA graph replays it.
    """
    clock = clock_of(device)
    pool = torch.cuda.graph_pool_handle() if graphs and device == "cuda" else None
    turns: dict[str, Turn] = {}
    found = Comparison({}, {}, {})
    for name, ready in candidates.items():
        with recorded(name, found.left_out):
            steps = ready()
            steps[0]()  # compiles, where there is something to compile
            if device == "cuda":
                found.extra_bytes[name] = extra_bytes(steps[0])
            turns[name] = _turn(steps, clock, pool)
    found.milliseconds.update(milliseconds(turns, rounds, clock, found.left_out))
    return found


def _turn(steps: Sequence[Step], clock: Clock, pool: Any) -> Turn:
    """One call of each step, or of the first ones that fit in :data:`TURN_S`; never none."""
    calls = max(1, min(len(steps), int(TURN_S / max(clock(steps[0]), 1e-9))))

    def run() -> object:
        # Results stay until the last is there: else all would be written to the same memory,
        # which stays in the cache.
        return [step() for step in steps[:calls]]

    return Turn(run if pool is None else captured(run, pool), calls)


def extra_bytes(step: Step) -> int:
    """Peak GPU memory during a step, beyond what was allocated before and what it returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = step()
    torch.cuda.synchronize()
    returned = sum(x.numel() * x.element_size() for x in results)
    return int(torch.cuda.max_memory_allocated()) - before - returned
