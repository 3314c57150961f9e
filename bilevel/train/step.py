"""One step of training: from a state and a batch to the next state and what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.metrics import Sums
from bilevel.train.schedule import Schedule, schedule
from bilevel.train.tasks import Task, task_of


class State(NamedTuple):
    """All that a step needs. As torch has it, model and optimizer are updated in place; the rest
    is a value."""

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    step: int
    """Steps done."""


def initial_state(model: nn.Module, config: TrainConfig, steps_per_epoch: int) -> State:
    """A state before the first step."""
    from timm.optim import param_groups_weight_decay  # timm takes seconds

    groups = param_groups_weight_decay(model, config.weight_decay)
    return State(
        task=task_of(config),
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=config.lr, eps=1e-8),
        schedule=schedule(config, steps_per_epoch),
        step=0,
    )


def step(state: State, batch: Batch) -> tuple[State, Sums]:
    """One update of the weights."""
    task, model, optimizer = state.task, state.model, state.optimizer
    for group in optimizer.param_groups:
        group["lr"] = state.schedule(state.step)
    model.train()
    targets = task.targets(batch)
    loss, sums = task.loss(task.outputs(model, batch.images, targets), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return state._replace(step=state.step + 1), Sums(len(batch.images), sums)


@torch.inference_mode()
def evaluate(task: Task, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """The task's summary of a model on all batches; the model is left in evaluation mode."""
    model.eval()
    total: Sums | None = None
    for batch in batches:
        targets = task.targets(batch)
        outputs = task.outputs(model, batch.images, targets)
        measured = Sums(len(batch.images), task.measure(outputs, targets))
        total = measured if total is None else total + measured
    assert total is not None, "a test set is never empty"
    return task.summary(total)
