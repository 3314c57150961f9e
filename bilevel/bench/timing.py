"""Times of candidates that take turns, so that a busy machine slows all of them alike."""

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
"""Makes one call and returns its seconds."""

LONGEST_REASON = 300
"""Characters that are kept of an error's message."""


class Turn(NamedTuple):
    """What a candidate runs when it is its turn."""

    run: Callable[[], object]
    calls: int = 1
    """Calls of the candidate in one ``run``."""


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
    """The clock for work on a device, ``"cpu"`` or ``"cuda"``."""
    return on_cuda if device == "cuda" else on_host


def milliseconds(
    turns: Mapping[str, Turn], rounds: int, clock: Clock, left_out: dict[str, str]
) -> dict[str, float]:
    """The median time of one call of each candidate.

    Each candidate has one turn in each round. The order within a round is random, because memory
    that one candidate frees slows the next. One more round goes first, to warm up. A candidate
    that fails has no time; ``left_out`` gets the reason.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    order, random = list(turns), Random(0)
    for number in range(rounds + 1):
        random.shuffle(order)
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
    """Record an error of one candidate in one line of ``left_out``, so that the others go on."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())
        left_out[name] = f"{type(error).__name__}: {message}"[:LONGEST_REASON]
    if name in left_out and torch.cuda.is_available():
        gc.collect()  # what the error's frames held
        with suppress(RuntimeError):  # after a sticky CUDA error, all else on the GPU fails too
            torch.cuda.empty_cache()


def captured(run: Callable[[], object], pool: Any) -> Callable[[], object]:
    """The replay of a CUDA graph of ``run``: the device's work without launches by the host.

    Graphs of one ``pool`` share memory, so a result is valid until the next replay.
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
