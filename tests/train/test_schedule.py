"""The learning rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bilevel.train.recipes import DIGITS
from bilevel.train.schedule import schedule, warmup_cosine


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    rates = [warmup_cosine(i, 2.0, 4, 12) for i in range(13)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.0)


def test_a_run_has_the_schedule_of_its_epochs() -> None:
    config = replace(DIGITS, epochs=3, warmup_epochs=1, lr=2.0)
    rate = schedule(config, steps_per_epoch=4)
    assert [rate(i) for i in range(13)] == [warmup_cosine(i, 2.0, 4, 12) for i in range(13)]


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0.1, 0), (0.6, 2), (1.5, 6), (2.9, 12)])
def test_a_warmup_of_parts_of_epochs_is_rounded_to_steps(epochs: float, steps: int) -> None:
    config = replace(DIGITS, epochs=5, warmup_epochs=epochs, lr=2.0)
    rate = schedule(config, steps_per_epoch=4)
    assert [rate(i) for i in range(21)] == [warmup_cosine(i, 2.0, steps, 20) for i in range(21)]
