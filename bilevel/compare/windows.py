"""Maps cut into windows or stripes, and learned biases for the offset between two tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.errors import ShapeError


def windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(N, H, W, C)`` as windows ``(N * H / h * W / w, h * w, C)``, row by row.

    Raises ShapeError if windows of ``size`` (h, w) do not tile the map.
    """
    return _cells(x, size).transpose(2, 3).reshape(-1, size[0] * size[1], x.shape[-1])


def from_windows(x: Tensor, size: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`windows`; ``shape`` is that of the maps."""
    n, height, width, c = shape
    x = x.reshape(n, height // size[0], width // size[1], *size, c)
    return x.transpose(2, 3).reshape(shape)


def grids(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(N, H, W, C)`` as sets ``(N * H / h * W / w, h * w, C)`` of h x w tokens that are
    spread evenly over the whole map: each holds one token of each cell of an h x w partition.

    Raises ShapeError if ``size`` (h, w) does not divide the map.
    """
    cells = _cells(x, (x.shape[1] // size[0], x.shape[2] // size[1]))
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, size[0] * size[1], x.shape[-1])


def from_grids(x: Tensor, size: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`grids`; ``shape`` is that of the maps."""
    n, height, width, c = shape
    x = x.reshape(n, height // size[0], width // size[1], *size, c)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def _cells(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, H / h, h, W / w, w, C)``"""
    n, height, width, c = x.shape
    h, w = size
    if not h or not w or height % h or width % w:
        raise ShapeError(
            f"expected a map that cells of {h} x {w} tile, got {height} x {width}; choose another "
            "size of images"
        )
    return x.reshape(n, height // h, h, width // w, w, c)


def relative_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Biases ``(1, M, h * w, h * w)`` of query and key in a window of h x w tokens.

    ``table`` is ``(M, 2 * h - 1, 2 * w - 1)``: at the offset of the query from the key, plus
    h - 1 and w - 1.
    """
    h, w = size
    rows, columns = (torch.arange(n, device=table.device) for n in size)
    dy = rows[:, None] - rows + h - 1
    dx = columns[:, None] - columns + w - 1
    bias = table[:, dy[:, None, :, None], dx[None, :, None, :]]  # of query row, column, key row, ..
    return bias.reshape(1, -1, h * w, h * w)
