"""One step of training: from a state and a batch to the next state and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bilevel.errors import ArgumentError
from bilevel.train import average, draws
from bilevel.train.augment import Mixing
from bilevel.train.average import Average, averaged
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.distributed import ALONE, World, whole, whole_tensor
from bilevel.train.metrics import Sums
from bilevel.train.optimizer import is_fused, optimizer_of, set_lr
from bilevel.train.schedule import Schedule, schedule
from bilevel.train.sync_norm import synchronised
from bilevel.train.tasks import Task, task_of

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class State(NamedTuple):
    """All that a step needs. As torch has it, model, optimizer, average and scaler are updated in
    place; the rest is a value."""

    task: Task
    config: TrainConfig
    model: nn.Module
    replica: nn.Module
    """The model as a step calls it: it shares its gradients with other processes, if there are
    any."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    average: Average | None
    """The averaged weights, where the config asks for them."""
    scaler: torch.amp.GradScaler
    """Scales gradients in fp16; in other types it does nothing."""
    mixing: Mixing | None
    """Mixes each batch, where the config asks for it."""
    skipped: Tensor
    """How many steps in a row, up to the last, were not finite and changed nothing: int64 ``()`` on
    the device, to be looked at now and then."""
    step: int
    """Steps done."""


def initial_state(
    model: nn.Module, config: TrainConfig, steps_per_epoch: int, world: World = ALONE
) -> State:
    """A state before the first step, of a model that is on its device, and is made ready in place
    for how the config computes: its memory, what is kept for the backward pass, compilation, what
    it has in common with other processes.

    Raises ArgumentError if timm has no such optimizer.
    """
    if config.sync_bn and world.ranks > 1:
        synchronised(model, config.device)
    _prepare(model, config)
    replica = world.replica(model, config.shard)
    device = _device_of(model)
    return State(
        task=task_of(config),
        config=config,
        model=model,
        replica=replica,
        optimizer=optimizer_of(model, config),
        schedule=schedule(config, steps_per_epoch),
        average=average.average_of(model) if config.model_ema_decay else None,
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp == "fp16"),
        mixing=Mixing(config, _classes_of(model)) if config.mixes else None,
        skipped=torch.zeros((), dtype=torch.int64, device=device),
        step=0,
    )


def _prepare(model: nn.Module, config: TrainConfig) -> None:
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.checkpoint_blocks:
        inner: Any = model
        inner.set_grad_checkpointing()
    if config.compile:
        model.compile()


def step(state: State, batch: Batch) -> tuple[State, Sums]:
    """One update of the weights. If the gradients of the batch are not finite, nothing changes but
    the number of steps."""
    model, config = state.model, state.config
    set_lr(state.optimizer, state.schedule(state.step))
    model.train()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    state.optimizer.zero_grad(set_to_none=True)
    batch = batch if state.mixing is None else state.mixing(batch)
    total: Sums | None = None
    for rows in _parts(len(batch.labels), config.grad_accum_steps):
        last = rows.stop == len(batch.labels)
        with nullcontext() if last else _without_sync(state.replica), draws.part(model, rows):
            sums = _backward(state, batch, rows)
        total = sums if total is None else total + sums
    assert total is not None, "a batch is never empty"
    finite = _update(state)
    for buffer, before in buffers:
        buffer.copy_(torch.where(finite, buffer, before))
    if state.average is not None:
        average.update(state.average, model, config.model_ema_decay)
    skipped = (state.skipped + 1) * ~finite
    return state._replace(step=state.step + 1, skipped=skipped), total


def _backward(state: State, whole: Batch, rows: slice) -> Sums:
    """Add the gradients of a part of a batch, whose loss counts as its share of the whole."""
    share = (rows.stop - rows.start) / len(whole.labels)
    batch = whole if share == 1 else Batch(whole.images[rows], whole.labels[rows])
    targets = state.task.targets(batch)
    with autocast(state.model, state.config):
        outputs = state.task.outputs(state.replica, batch.images, targets)
        loss, sums = state.task.loss(outputs, targets)
    state.scaler.scale(loss * share).backward()
    return Sums(len(batch.images), sums)


def _update(state: State) -> Tensor:
    """Let the optimizer act on the gradients, cut to a norm, if they are finite; whether they are,
    on the device."""
    optimizer, scaler = state.optimizer, state.scaler
    scaler.unscale_(optimizer)
    grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    norm = whole_tensor(torch.nn.utils.get_total_norm(grads))
    finite = norm.isfinite()
    if state.config.clip_grad is not None:
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, state.config.clip_grad, norm)
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif is_fused(optimizer):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:  # the host waits for the device, where the optimizer cannot be told there
        optimizer.step()
    return finite


def _parts(images: int, parts: int) -> Iterator[slice]:
    """The rows of a batch in parts of about the same size."""
    size = -(-images // parts)
    return (slice(begin, min(begin + size, images)) for begin in range(0, images, size))


def _without_sync(model: nn.Module) -> AbstractContextManager[Any]:
    """Where gradients are added up and not yet shared with other processes."""
    no_sync: Any = getattr(model, "no_sync", nullcontext)  # of DistributedDataParallel
    return no_sync()


def autocast(model: nn.Module, config: TrainConfig) -> AbstractContextManager[Any]:
    """The precision of a config on the device of a model."""
    if config.amp is None:
        return nullcontext()
    return torch.autocast(_device_of(model).type, PRECISIONS[config.amp])


def _classes_of(model: nn.Module) -> int:
    """Raises ArgumentError for a model whose outputs are no classes."""
    classes = getattr(getattr(model, "module", model), "num_classes", None)
    if classes is None:
        raise ArgumentError(
            f"expected a model that tells classes apart for mixup or cutmix, got {type(model)}"
        )
    return int(classes)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def evaluate_average(
    state: State, batches: Iterable[Batch], world: World = ALONE
) -> dict[str, float]:
    """What :func:`evaluate` says of the averaged weights; empty if there are none."""
    if state.average is None:
        return {}
    with averaged(state.model, state.average) as model:
        return evaluate(state.task, model, batches, world)


def evaluate(
    task: Task, model: nn.Module, batches: Iterable[Batch], world: World = ALONE
) -> dict[str, float]:
    """The task's summary of a model on all batches, those of other processes too; the model is left
    in evaluation mode, with the buffers of the first process."""
    model.eval()
    world.share_buffers(model)
    total: Sums | None = None
    with whole(model), torch.inference_mode():
        for batch in batches:
            targets = task.targets(batch)
            outputs = task.outputs(model, batch.images, targets)
            measured = Sums(len(batch.images), task.measure(outputs, targets))
            total = measured if total is None else total + measured
    return task.summary(world.total(total))
