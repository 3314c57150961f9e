"""Times of contestants in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from random import Random
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import torch

Clock: TypeAlias = Callable[[Callable[[], object]], float]
"""Makes one call, and tells the seconds it took."""

LONGEST_REASON = 300
"""Characters that are kept of an error's message."""


class Turn(NamedTuple):
    """What a contestant does when it is its turn."""

    run: Callable[[], object]
    calls: int = 1
    """How often ``run`` calls the contestant."""


def on_host(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def on_cuda(run: Callable[[], object]) -> float:
    """By events on the current stream: launches that the GPU waits for count too."""
    start, end = _event(), _event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def clock_of(device: str) -> Clock:
    """The clock for arrays on a kind of device."""
    return on_cuda if device == "cuda" else on_host


def milliseconds(
    turns: Mapping[str, Turn], rounds: int, clock: Clock, left_out: dict[str, str]
) -> dict[str, float]:
    """The median time of each contestant's calls, over rounds in which each has one turn, in an
    order by chance, for the memory that one frees slows the next; one round more goes first, to
    warm up. Who fails has no time, but a reason in ``left_out``."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    order, chance = list(turns), Random(0)
    for number in range(rounds + 1):
        chance.shuffle(order)
        for name in order:
            if name in left_out:
                continue
            with recorded(name, left_out):
                seconds = clock(turns[name].run)
                if number:
                    times[name].append(seconds / turns[name].calls)
    return {
        name: float(f"{1e3 * median(each):.5g}")
        for name, each in times.items()
        if name not in left_out
    }


@contextmanager
def recorded(name: str, left_out: dict[str, str]) -> Iterator[None]:
    """What goes wrong for one contestant is noted, in one line, and the others go on."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())
        left_out[name] = f"{type(error).__name__}: {message}"[:LONGEST_REASON]
    if name in left_out and torch.cuda.is_available():
        gc.collect()  # what the error's frames held
        with suppress(RuntimeError):  # after an error that stays, all else on the GPU fails too
            torch.cuda.empty_cache()


def captured(run: Callable[[], object], pool: Any) -> Callable[[], object]:
    """The device's work of a call as a CUDA graph, to be replayed: without launches by the host.

    Graphs of one ``pool`` share memory, so results are only there until another is replayed.
    """
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        run()
    return graph.replay
