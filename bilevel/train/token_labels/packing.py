"""What training with token labels knows of an image as one tensor, which is put into batches, cut,
and moved to a device like any other labels: as in the code of TokenLabeling, the label map with a
third plane for the box of the crop and the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.train.token_labels.targets import BEST


class Unpacked(NamedTuple):
    """The arguments of :func:`bilevel.train.token_labels.targets`."""

    maps: Tensor
    """``(N, 2, 5, H, W)``"""
    boxes: Tensor
    """``(N, 4)``"""
    labels: Tensor
    """int64 ``(N,)``"""


def packed(label_map: Tensor, box: Sequence[float], label: int) -> Tensor:
    """A map ``(2, 5, H, W)``, a box as of :func:`~bilevel.train.token_labels.crop_box`, and a
    class, as float32 ``(3, 5, H, W)``."""
    plane = torch.zeros(1, *label_map.shape[1:])
    plane.view(-1)[:BEST] = torch.tensor([*box, label], dtype=torch.float32)
    return torch.cat([label_map.float(), plane])


def unpacked(batch: Tensor) -> Unpacked:
    """The parts of a batch ``(N, 3, 5, H, W)`` of what :func:`packed` gives."""
    said = batch[:, 2].flatten(1)[:, :BEST]
    return Unpacked(batch[:, :2], said[:, :4], said[:, 4].long())
