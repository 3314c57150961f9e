"""Parameters and operations of a model, without computing anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bilevel.bench.results import Row

IMAGE_SIZE = 224


def counts(build: Callable[[], nn.Module]) -> Row:
    """Parameters, and multiply-adds of one image by torch's counter: matrix products and
    convolutions. Tensors have no memory here, so nothing is computed."""
    with torch.device("meta"):
        model = build().eval()
        image = torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "macs": counter.get_total_flops() // 2,
    }
