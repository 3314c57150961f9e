"""The optimizer of a run, by timm's names, and its learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bilevel.errors import ArgumentError
from bilevel.train.config import TrainConfig

FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
"""Optimizers that update all weights in one kernel, and skip an update without asking the host."""


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a config for the parameters of a model; norms and biases do not decay.

    Raises ArgumentError if timm has no optimizer of its name, or none that first derivatives are
    enough for, or if it refuses its options.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info  # timm takes seconds

    try:
        info = get_optimizer_info(config.opt)
    except ValueError:
        message = f"expected opt to be an optimizer of timm, {_near(config.opt)}"
        raise ArgumentError(message) from None
    if info.second_order:
        raise ArgumentError(f"expected opt to need first derivatives alone, got {config.opt!r}")
    options: dict[str, Any] = {"eps": config.opt_eps} if info.has_eps else {}
    on_cuda = next(model.parameters()).device.type == "cuda"
    if info.opt_class in FUSED and on_cuda:
        options["fused"] = True
    try:
        return create_optimizer_v2(
            model,
            config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **options,
        )
    except ValueError as error:
        raise ArgumentError(f"the optimizer {config.opt!r} refuses its options: {error}") from error


def _near(name: str) -> str:
    from difflib import get_close_matches

    from timm.optim import list_optimizers

    near = get_close_matches(name, list_optimizers(), n=3)
    return f"such as {', '.join(map(repr, near or ('adamw', 'sgd', 'lamb')))}, got {name!r}"


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, each times its own scale where layers differ."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it can be told on the device to skip an update."""
    return bool(optimizer.defaults.get("fused"))
