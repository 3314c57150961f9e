"""Ways to segment an image of any size by a segmenter: whole, in windows that overlap, at several
scales and mirrored. Pure functions around ``run``, from images ``(N, C, H, W)`` to what is said of
every pixel, ``(N, num_classes, H, W)``; they compose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel.arguments import count
from bilevel.errors import ArgumentError

Run: TypeAlias = Callable[[Tensor], Tensor]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The official scales of ADE20K."""


def whole(run: Run, images: Tensor, multiple: int = 1) -> Tensor:
    """Logits of images as they are, or enlarged until ``multiple`` divides height and width: the
    official code does so by 32 for Semantic FPN.

    Raises ArgumentError if ``multiple`` is no positive integer.
    """
    multiple = count("multiple", multiple)
    size = [ceil(n / multiple) * multiple for n in images.shape[-2:]]
    return _resized(run(_resized(images, size)), images.shape[-2:])


def slide(run: Run, images: Tensor, window: int = 512, stride: int = 341) -> Tensor:
    """Logits of windows of ``window`` pixels on an axis, each ``stride`` pixels after the one
    before, the last one at the end; their mean where they overlap.

    Raises ArgumentError if ``stride`` is not from 1 to ``window``, where windows would miss pixels.
    """
    window = count("window", window)
    stride = count("stride", stride, 1, window, "as windows that are further apart miss pixels")
    total: Tensor | None = None
    times = images.new_zeros(images.shape[-2:])
    for rows in _windows(images.shape[-2], window, stride):
        for columns in _windows(images.shape[-1], window, stride):
            logits = run(images[..., rows, columns])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
            total[..., rows, columns] += logits
            times[rows, columns] += 1
    assert total is not None, "an image has a window at least"
    return total / times


def multi_scale(
    run: Run, images: Tensor, scales: Sequence[float] = SCALES, flip: bool = True
) -> Tensor:
    """The mean probability of each class, of images at several scales, each mirrored too.

    ``run`` gives logits; what is returned has a sum of 1 over the classes. Raises ArgumentError if
    there is no scale, or one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ArgumentError(f"expected scales to be positive numbers, got {scales!r}")
    height, width = images.shape[-2:]
    total: Tensor | float = 0.0
    for scale in scales:
        size = [max(1, round(n * scale)) for n in (height, width)]
        scaled = _resized(images, size)
        for mirrored in (False, True) if flip else (False,):
            logits = run(scaled.flip(-1) if mirrored else scaled)
            logits = logits.flip(-1) if mirrored else logits
            total = total + _resized(logits, (height, width)).softmax(1)
    return torch.as_tensor(total) / (len(scales) * (1 + flip))


def _windows(length: int, window: int, stride: int) -> Iterator[slice]:
    """Along an axis, whose end the last window reaches; one alone where the axis is shorter."""
    last = max(0, length - window)
    for i in range(ceil(last / stride) + 1):
        first = min(i * stride, last)
        yield slice(first, min(first + window, length))


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)
