"""All that is random in training, set from the seeds of the plan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bilevel.models.modules import DropPath
from bilevel.train.plan import Plan, branches, step_seed


def seed_all(seed: int) -> None:
    """Let Python, NumPy and torch draw on from a seed, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else torch would note, slowly, what to do once it is
        torch.cuda.manual_seed_all(seed)


def begin_step(model: nn.Module, plan: Plan, step: int, device: str) -> None:
    """Before a step: all that it draws follows from its number.

    Every rank draws the same numbers for the step, such as how it is mixed; which branches of which
    images are dropped is drawn for the whole global batch, and the rank takes its rows.
    """
    hand_out(model, kept(model, plan, step, device))
    seed_all(step_seed(plan.seed, step))


def kept(model: nn.Module, plan: Plan, step: int, device: str) -> Tensor:
    """Which branches the rank's images keep, bool ``(modules, rows)`` on the device: a row for each
    :class:`DropPath` of the model, in its order."""
    modules = _modules(model)
    rates = torch.tensor([module.rate for module in modules])
    uniform = branches(plan.seed, step, len(modules), plan.batch)
    chosen = (uniform >= rates[:, None])[:, plan.rows()]
    if torch.device(device).type == "cuda":
        chosen = chosen.pin_memory()  # else the copy would wait for the device
    return chosen.to(device, non_blocking=True)


def hand_out(model: nn.Module, kept: Tensor | None) -> None:
    """Give each :class:`DropPath` its row; None lets them draw by themselves again."""
    modules = _modules(model)
    for module, row in zip(modules, [None] * len(modules) if kept is None else kept, strict=True):
        module.kept = row


@contextmanager
def part(model: nn.Module, rows: slice) -> Iterator[None]:
    """Where the model is given only these rows of the rank's images."""
    modules = _modules(model)
    whole = [module.kept for module in modules]
    try:
        for module, kept in zip(modules, whole, strict=True):
            module.kept = None if kept is None else kept[rows]
        yield
    finally:
        for module, kept in zip(modules, whole, strict=True):
            module.kept = kept


def _modules(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]
