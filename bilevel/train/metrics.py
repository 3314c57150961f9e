"""What is measured, as sums over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """Named sums over ``images`` images.

    They are tensors on the device, so that nothing waits for them until :meth:`mean` does, or
    anything else that adds up.
    """

    images: Any
    """A number, or a tensor of it."""
    values: Mapping[str, Any]

    def __add__(self, other: Sums) -> Sums:
        values = {name: value + other.values[name] for name, value in self.values.items()}
        return Sums(self.images + other.images, values)

    def where(self, kept: Tensor) -> Sums:
        """These sums where ``kept``, a scalar on the device, is true, else those of no image."""
        nothing = torch.zeros((), dtype=torch.int64, device=kept.device)
        return Sums(
            kept * self.images,
            {name: torch.where(kept, x, nothing.to(x.dtype)) for name, x in self.values.items()},
        )

    def to(self, device: str) -> Sums:
        """With all tensors on a device."""
        move = {name: _to(value, device) for name, value in self.values.items()}
        return Sums(_to(self.images, device), move)

    def mean(self, name: str) -> float:
        """The mean over images of one of the sums."""
        images = int(self.images)
        return float(self.values[name]) / images if images else nan

    def means(self) -> dict[str, float]:
        """The mean of each."""
        return {name: self.mean(name) for name in self.values}


def _to(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
