"""MixToken: which places of a batch are exchanged with those of the reversed batch (LV-ViT paper,
section 3.2; by the code of TokenLabeling and VOLO). :func:`bilevel.models.token_labels.exchanged`
exchanges them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a map, the last not in it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Places in it; 0 if it is empty."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(rng: np.random.Generator | np.random.RandomState, height: int, width: int) -> Box:
    """A box in a map, of a share of its area that is uniform from 0 to 1, before it is cut off at
    the edges. It may be empty. Drawn in the order of the official code: a number of Beta(1, 1), the
    row of the centre, its column."""
    lam = float(rng.beta(1.0, 1.0))
    below = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    row = int(below(height))
    column = int(below(width))
    return box_around((row, column), lam, height, width)


def box_around(centre: tuple[int, int], lam: float, height: int, width: int) -> Box:
    """The box around a place that leaves ``lam`` of a map, as far as it lies within it. As in the
    official code, a side of an odd length is one shorter."""
    row, column = centre
    side = (1.0 - lam) ** 0.5
    down, across = int(height * side) // 2, int(width * side) // 2
    return Box(
        max(row - down, 0),
        max(column - across, 0),
        min(row + down, height),
        min(column + across, width),
    )


def places(box: Box, height: int, width: int) -> Tensor:
    """The places of a map that are in a box, boolean ``(height, width)``, on the CPU."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[box.top : box.bottom, box.left : box.right] = True
    return mask
