"""What a trained classifier gets wrong on the test images: how often, and the worst of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bilevel.train.data import Batch

WORST = 24
"""Mistakes that are kept."""


class Mistake(NamedTuple):
    """An image ``(C, H, W)`` as the model saw it, its class, the one that was found, and the
    probability that the model gave it."""

    image: Tensor
    label: int
    found: int
    probability: float


class Findings(NamedTuple):
    """Of all test images."""

    classes: Sequence[str]
    confusion: Tensor
    """How many images of a class (row) were taken for one (column): int64 ``(C, C)``."""
    worst: Sequence[Mistake]
    """The mistakes that the model was surest of, the surest first."""


@torch.inference_mode()
def findings(model: nn.Module, batches: Iterable[Batch], classes: Sequence[str]) -> Findings:
    """What a model in evaluation mode makes of test images."""
    count = len(classes)
    confusion = torch.zeros(count * count, dtype=torch.int64)
    worst: list[tuple[float, int, Mistake]] = []  # the number tells those of one probability apart
    seen = 0
    for images, labels in batches:
        probability, found = (x.cpu() for x in model(images).float().softmax(-1).max(-1))
        labels = labels.cpu()
        confusion += torch.bincount(labels * count + found, minlength=count * count)
        for i in (found != labels).nonzero().flatten().tolist():
            sure = float(probability[i])
            entry = Mistake(images[i].cpu(), int(labels[i]), int(found[i]), sure)
            heapq.heappush(worst, (sure, -seen - i, entry))
            if len(worst) > WORST:
                heapq.heappop(worst)
        seen += len(labels)
    ordered = sorted(worst, key=lambda each: each[:2], reverse=True)
    return Findings(classes, confusion.view(count, count), [each[-1] for each in ordered])
