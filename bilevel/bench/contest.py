"""A contest: each entrant made ready, its memory measured, then all timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bilevel.bench.timing import Clock, Turn, captured, clock_of, milliseconds, recorded

Step: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""One call of a contestant on arrays of its own, to its results."""

SETTLED = 0.02
"""Seconds of calls after which a turn ends: more would not make a median steadier."""


class Results(NamedTuple):
    """Of the contestants, by name."""

    milliseconds: dict[str, float]
    extra_bytes: dict[str, int]
    """The most memory at once beyond inputs and results; none is known of a CPU's."""
    left_out: dict[str, str]
    """Why a contestant has no time."""


def contest(
    entrants: Mapping[str, Callable[[], Sequence[Step]]],
    rounds: int,
    device: str,
    *,
    graphs: bool = False,
) -> Results:
    """Time the steps that each entrant makes ready: calls that differ in their arrays alone.

    With ``graphs``, on CUDA, only the device's work counts, as a CUDA graph replays it.
    """
    clock = clock_of(device)
    pool = torch.cuda.graph_pool_handle() if graphs and device == "cuda" else None
    turns: dict[str, Turn] = {}
    found = Results({}, {}, {})
    for name, ready in entrants.items():
        with recorded(name, found.left_out):
            steps = ready()
            steps[0]()  # compiles, where there is something to compile
            if device == "cuda":
                found.extra_bytes[name] = extra_bytes(steps[0])
            turns[name] = _turn(steps, clock, pool)
    found.milliseconds.update(milliseconds(turns, rounds, clock, found.left_out))
    return found


def _turn(steps: Sequence[Step], clock: Clock, pool: Any) -> Turn:
    """A call of each step, or of as many as :data:`SETTLED` has time for, one at least."""
    calls = max(1, min(len(steps), int(SETTLED / max(clock(steps[0]), 1e-9))))

    def run() -> object:
        # Results stay until the last is there: else all would be written to the same memory,
        # which stays in the cache.
        return [step() for step in steps[:calls]]

    return Turn(run if pool is None else captured(run, pool), calls)


def extra_bytes(step: Step) -> int:
    """The most memory on the GPU at once, beyond what was there and what the step returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = step()
    torch.cuda.synchronize()
    returned = sum(x.numel() * x.element_size() for x in results)
    return int(torch.cuda.max_memory_allocated()) - before - returned
