"""What is measured, as sums over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sums:
    """Named sums over ``images`` images.

    They are tensors on the device, so that nothing waits for them until :meth:`mean` does, or
    anything else that adds up.
    """

    images: int
    values: Mapping[str, Any]

    def __add__(self, other: Sums) -> Sums:
        values = {name: value + other.values[name] for name, value in self.values.items()}
        return Sums(self.images + other.images, values)

    def mean(self, name: str) -> float:
        """The mean over images of one of the sums."""
        return float(self.values[name]) / self.images

    def means(self) -> dict[str, float]:
        """The mean of each."""
        return {name: self.mean(name) for name in self.values}
