"""One step of training: from a state and a batch to the next state and what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bilevel.models import BiFormer
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch


class State(NamedTuple):
    """All that a step needs. As torch has it, model and optimizer are updated in place; the rest
    is a value."""

    model: BiFormer
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    """Learning rate of a step."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """From logits and labels to their mean loss."""
    step: int


@dataclass(frozen=True)
class Metrics:
    """Sums over ``images`` images, on the device, so that nothing waits for them."""

    loss: Tensor
    correct: Tensor
    images: int

    def __add__(self, other: Metrics) -> Metrics:
        return Metrics(
            self.loss + other.loss, self.correct + other.correct, self.images + other.images
        )

    @property
    def mean_loss(self) -> float:
        return float(self.loss) / self.images

    @property
    def accuracy(self) -> float:
        return float(self.correct) / self.images


def initial_state(model: BiFormer, config: TrainConfig, steps_per_epoch: int) -> State:
    """A state before the first step."""
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(model, config.weight_decay), lr=config.lr, eps=1e-8
    )
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = config.epochs * steps_per_epoch
    return State(
        model,
        optimizer,
        schedule=lambda step: learning_rate(step, config.lr, warmup, total),
        loss=nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
        step=0,
    )


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """Linear up to ``peak`` in ``warmup`` steps, then half a cosine down to zero at ``total``.

    >>> [round(learning_rate(step, 1.0, 2, 6), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def step(state: State, batch: Batch) -> tuple[State, Metrics]:
    """One update of the weights."""
    for group in state.optimizer.param_groups:
        group["lr"] = state.schedule(state.step)
    state.model.train()
    logits = state.model(batch.images)
    loss = state.loss(logits, batch.labels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    return state._replace(step=state.step + 1), _measured(loss.detach(), logits, batch)


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Metrics:
    """Cross entropy and accuracy over batches."""
    model.eval()
    total: Metrics | None = None
    for batch in batches:
        logits = model(batch.images)
        metrics = _measured(cross_entropy(logits, batch.labels), logits, batch)
        total = metrics if total is None else total + metrics
    assert total is not None, "a test set is never empty"
    return total


def _measured(loss: Tensor, logits: Tensor, batch: Batch) -> Metrics:
    images = len(batch.labels)
    correct = (logits.detach().argmax(-1) == batch.labels).sum()
    return Metrics(loss * images, correct, images)
