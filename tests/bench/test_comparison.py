"""Candidates take turns; medians count, and one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bilevel.bench import timing
from bilevel.bench.comparison import Step, compare
from tests.bench.stand_ins import Cuda


def test_the_median_of_turns() -> None:
    times = iter([9.0, 1.0, 2.0, 5.0])  # the first turn, to warm up, does not count
    turns = {"one": timing.Turn(lambda: None, calls=4)}
    found = timing.milliseconds(turns, 3, lambda run: next(times), {})
    assert found == {"one": 500.0}


def test_who_fails_is_named_and_the_others_go_on() -> None:
    def ready() -> list[Step]:
        raise ValueError("expected more\n  than this")

    def step() -> tuple[Tensor, ...]:
        calls.append(len(calls))
        if len(calls) > 4:
            raise torch.OutOfMemoryError("of memory")
        return ()

    calls: list[int] = []
    candidates: dict[str, Callable[[], Sequence[Step]]] = {
        "never": ready,
        "late": lambda: [step],
        "fine": lambda: [lambda: ()],
    }
    times, extra, left_out = compare(candidates, 5, "cpu")
    assert times.keys() == {"fine"}
    assert left_out == {
        "never": "ValueError: expected more than this",
        "late": "OutOfMemoryError: of memory",
    }
    assert len(calls) == 5
    assert not extra


def test_turns_rotate_and_are_replayed(cuda: Cuda) -> None:
    calls: list[int] = []

    def step(number: int) -> tuple[Tensor, ...]:
        calls.append(number)
        cuda.clock += 4.0
        cuda.peak = 164
        return (torch.empty(8),)

    found = compare({"one": lambda: [partial(step, i) for i in range(9)]}, 3, "cuda", graphs=True)
    # A call to warm up, one for its memory, one for its time; 4 in 20 ms aside, and captured.
    assert calls == [0, 0, 0, *range(4), *range(4)]
    assert (cuda.captured, cuda.replayed) == (1, 4)
    assert found == ({"one": 1.75}, {"one": 32}, {})
