"""The learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from bilevel.train.config import TrainConfig

Schedule: TypeAlias = Callable[[int], float]
"""From the number of steps done to the learning rate of the next."""


def schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a run."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = config.epochs * steps_per_epoch
    ends = (config.warmup_lr, config.min_lr)
    return lambda step: warmup_cosine(step, config.lr, warmup, total, *ends)


def warmup_cosine(
    step: int, peak: float, warmup: int, total: int, start: float = 0.0, end: float = 0.0
) -> float:
    """Linear from ``start`` up to ``peak`` in ``warmup`` steps, then half a cosine down to ``end``
    at ``total``.

    The official training of BiFormer sets the rate once an epoch and one epoch late, and its cosine
    begins with the warm-up: at any time its rate differs by less than that of an epoch.

    >>> [round(warmup_cosine(step, 1.0, 2, 6), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return start + (peak - start) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2
