"""What moves the places of an image, and its label map with it."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Affine: TypeAlias = tuple[float, float, float, float, float, float]
"""``(a, b, c, d, e, f)`` as Pillow has it: at ``(x, y)`` of the new image is what was at ``(a * x +
b * y + c, d * x + e * y + f)``, in pixels from the upper left corner."""


def flipped(label_map: Tensor) -> Tensor:
    """The map ``(2, 5, H, W)`` of a mirrored image."""
    return label_map.flip(-1)


def moved(label_map: Tensor, affine: Affine, image_size: tuple[int, int]) -> Tensor:
    """The map of an image that was moved, each place from where its centre was.

    What comes from outside the image has logits of zero, and the classes of the nearest place, as
    in the code of TokenLabeling.

    Parameters
    ----------
    label_map
        ``(2, 5, H, W)``.
    affine
        How the image was moved.
    image_size
        Its height and width in pixels.
    """
    a, b, c, d, e, f = affine
    height, width = label_map.shape[2:]
    across, down = image_size[1] / width, image_size[0] / height  # pixels to a place
    x = (torch.arange(width, dtype=torch.float64) + 0.5)[None] * across
    y = (torch.arange(height, dtype=torch.float64) + 0.5)[:, None] * down
    columns = ((a * x + b * y + c) / across).floor().long()
    rows = ((d * x + e * y + f) / down).floor().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = label_map[:, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    found[0] *= inside
    return found
