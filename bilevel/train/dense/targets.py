"""From annotations of objects to the targets of torchvision's detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import BackendUnavailable, InputError
from bilevel.train.dense.coco import Annotation, Picture
from bilevel.train.dense.measures import INSTALL


def target(picture: Picture, masks: bool = False) -> dict[str, Tensor]:
    """What is in a picture: ``boxes``, float32 ``(n, 4)`` as x1, y1, x2, y2, ``labels``, int64
    ``(n,)`` from 1 on, ``crowd``, bool ``(n,)``; with ``masks`` also those, uint8 ``(n, H, W)``.

    A mask is the box where an object has none, or none with a pixel. Raises InputError if run
    lengths are none, BackendUnavailable if faster-coco-eval is not installed for masks.
    """
    objects = picture.objects
    found = {
        "boxes": torch.tensor([each.box for each in objects]).view(-1, 4),
        "labels": torch.tensor([each.label for each in objects], dtype=torch.long),
        "crowd": torch.tensor([each.crowd for each in objects], dtype=torch.bool),
    }
    if masks:
        pixels = [_mask(picture, each) for each in objects]
        empty = np.zeros((0, *picture.size), np.uint8)
        found["masks"] = torch.from_numpy(np.stack(pixels) if pixels else empty)
    return found


def to_train_on(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without crowds, which are many objects in one box."""
    kept = ~found["crowd"]
    return {name: x[kept] for name, x in found.items() if name != "crowd"}


def _mask(picture: Picture, one: Annotation) -> Any:
    """uint8 ``(H, W)``."""
    if one.segmentation is not None and (pixels := _decoded(picture, one)).any():
        return pixels
    x1, y1, x2, y2 = one.box
    pixels = np.zeros(picture.size, np.uint8)
    pixels[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 1
    return pixels


def _decoded(picture: Picture, one: Annotation) -> Any:
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"masks need {error.name}; {INSTALL}") from error
    given = one.segmentation
    compressed = isinstance(given, dict) and isinstance(given["counts"], str)
    try:
        runs = given if compressed else mask.frPyObjects(given, *picture.size)
        return mask.decode(mask.merge(runs) if isinstance(runs, list) else runs)
    except Exception as error:  # of the library, on counts that are none
        raise InputError(
            f"annotation {one.id} of {picture.path}: expected a mask, got {error}"
        ) from error
