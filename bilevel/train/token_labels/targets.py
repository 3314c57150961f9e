"""From the label map of an image and the box that was cropped of it to what tokens should say.

As in the code of TokenLabeling, to rounding; see ``axes`` for what that code has the other way
round.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.ops import roi_align

from bilevel.arguments import choice, count, number
from bilevel.errors import ShapeError

Axes: TypeAlias = Literal["corrected", "official"]

BEST = 5
"""Classes that a label map keeps of each place, the teacher's best."""


class Targets(NamedTuple):
    """Probabilities of classes that logits are trained towards, floating-point."""

    label: Tensor
    """Of the class of each image, ``(N, classes)``."""
    pooled: Tensor
    """Of the crop as a whole, by the teacher, ``(N, classes)``."""
    dense: Tensor
    """Of each token of the crop, by the teacher, ``(N, size, size, classes)``."""


def crop_box(
    top: float, left: float, height: float, width: float, image_height: float, image_width: float
) -> tuple[float, float, float, float]:
    """A crop in pixels as fractions of its image: top, left, height, width."""
    return top / image_height, left / image_width, height / image_height, width / image_width


def targets(
    maps: Tensor,
    boxes: Tensor,
    labels: Tensor,
    size: int,
    classes: int,
    *,
    smoothing: float = 0.0,
    axes: Axes = "corrected",
) -> Targets:
    """The targets of a batch of crops, on the device of the maps, without waiting for it.

    The five logits of each place become a map of all classes, zero for the others; the crop is
    averaged over its ``size * size`` parts, and once over the whole, by bilinear samples
    (``roi_align``); then follows the softmax.

    Parameters
    ----------
    maps
        ``(N, 2, 5, H, W)``, floating-point: for each place the teacher's five largest logits, and
        their classes.
    boxes
        ``(N, 4)``, float32 or float64, in which all is computed: top, left, height and width of
        each crop as fractions of its image; see :func:`crop_box`.
    labels
        The class of each image, int64 ``(N,)``.
    size
        Tokens on each axis of the model's last map.
    classes
        Classes of the model, of which those of the maps are some.
    smoothing
        Of labels: probability that is spread over all classes. Those of the teacher are scaled and
        raised alike, so that they sum to ``1 + smoothing / classes``, as in the official code.
    axes
        ``"official"`` takes top for left, left for top, height for width and width for height, as
        the official code does.

    Raises
    ------
    ArgumentError
        If a number or ``axes`` has no meaning, or, as ShapeError, if shapes do not fit.
    """
    choice("axes", axes, get_args(Axes))
    size, classes = count("size", size), count("classes", classes)
    smoothing = number("smoothing", smoothing, 0, 1)
    _check_shapes(maps, boxes, labels)
    logits = _scattered(maps.to(boxes.dtype), classes)
    regions = _regions(boxes, maps.shape[-2:], axes)
    dense = _cropped(logits, regions, size)
    pooled = dense if size == 1 else _cropped(logits, regions, 1)
    off = smoothing / classes
    on = 1 - smoothing + off
    label = one_hot(labels, classes).to(boxes.dtype) * (on - off) + off
    return Targets(label, pooled[:, 0, 0] * on + off, dense * on + off)


def of_labels(probabilities: Tensor, size: int) -> Targets:
    """Targets where there is no label map: those of the image, ``(N, classes)``, for each token."""
    dense = probabilities[:, None, None].expand(-1, size, size, -1)
    return Targets(probabilities, probabilities, dense)


def mixed(targets: Targets, lam: float) -> Targets:
    """The targets of images that were mixed with the reversed batch, ``lam`` of each and the rest
    of the other (mixup)."""
    return Targets(*(lam * each + (1 - lam) * each.flip(0) for each in targets))


def _check_shapes(maps: Tensor, boxes: Tensor, labels: Tensor) -> None:
    n = len(maps)
    good = maps.ndim == 5 and tuple(maps.shape[1:3]) == (2, BEST)
    if not good or tuple(boxes.shape) != (n, 4) or tuple(labels.shape) != (n,):
        raise ShapeError(
            f"expected maps (N, 2, {BEST}, H, W), boxes (N, 4) and labels (N,), got "
            f"{tuple(maps.shape)}, {tuple(boxes.shape)} and {tuple(labels.shape)}"
        )


def _scattered(maps: Tensor, classes: int) -> Tensor:
    """Logits ``(N, classes, H, W)``, zero for the classes that the map does not name."""
    values, indices = maps.unbind(1)
    n, _, height, width = values.shape
    return values.new_zeros(n, classes, height, width).scatter_(1, indices.long(), values)


def _regions(boxes: Tensor, map_size: torch.Size, axes: Axes) -> Tensor:
    """Boxes as ``roi_align`` takes them, ``(N, 5)``: index of the image, then left, top, right and
    bottom in places of the map, whose centres are at whole numbers."""
    top, left, down, across = boxes.unbind(1)
    if axes == "official":
        top, left, down, across = left, top, across, down
    height, width = map_size
    ends = (left * width, top * height, (left + across) * width, (top + down) * height)
    image = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)
    return torch.stack([image, *(end - 0.5 for end in ends)], 1)


def _cropped(logits: Tensor, regions: Tensor, size: int) -> Tensor:
    """Probabilities ``(N, size, size, classes)`` of the parts of each region."""
    return roi_align(logits, regions, (size, size)).softmax(1).permute(0, 2, 3, 1)
