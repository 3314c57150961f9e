"""The moving average of a model's weights (EMA), as a dict of tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bilevel.train.distributed import own_part

Average: TypeAlias = Mapping[str, Tensor]
"""Parameters and buffers of a model, averaged, by their names in its state_dict."""


def average_of(model: nn.Module) -> Average:
    """An average that begins with the weights as they are."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def update(average: Average, model: nn.Module, decay: float) -> None:
    """Move an average towards the weights, in place; of buffers that count, the newest is kept."""
    old, new = [], []
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            old.append(own_part(average[name]))
            new.append(own_part(tensor))
        else:
            average[name].copy_(tensor)
    torch._foreach_lerp_(old, new, 1 - decay)


@contextmanager
def averaged(model: nn.Module, average: Average) -> Iterator[nn.Module]:
    """The model with the averaged weights; afterwards with its own again."""
    own = average_of(model)
    model.load_state_dict(average)
    try:
        yield model
    finally:
        model.load_state_dict(own)
