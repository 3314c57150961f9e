"""The step and the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from bilevel.train import data, step
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.loader import Planned, plan_of
from bilevel.train.metrics import Sums
from bilevel.train.recipes import DIGITS
from bilevel.train.run import build_model
from bilevel.train.tasks import task_of

CONFIG = replace(DIGITS, image_size=32, batch_size=16, epochs=5, warmup_epochs=1)
TASK = task_of(CONFIG)


def start(config: TrainConfig = CONFIG) -> step.State:
    torch.manual_seed(0)
    model = build_model(config, config.architecture(10, 1))
    return step.initial_state(model, config, steps_per_epoch=4)


@pytest.fixture(scope="module")
def batch() -> Batch:
    found = data.find(CONFIG)
    return next(Planned(found, plan_of(CONFIG, found), CONFIG).steps(0, 1))


def test_steps_lower_the_loss_of_a_batch(batch: Batch) -> None:
    state = start()
    losses = []
    for _ in range(15):
        state, sums = step.step(state, batch)
        losses.append(sums.mean("loss"))
    assert losses[-1] < losses[0] / 1.5
    assert state.step == 15


def test_the_schedule_sets_the_learning_rate_of_each_step(batch: Batch) -> None:
    state = start()
    for i in range(3):
        state, _ = step.step(state, batch)
        assert {g["lr"] for g in state.optimizer.param_groups} == {state.schedule(i)}


def test_a_step_measures_the_mean_over_its_images(batch: Batch) -> None:
    state = start()
    with torch.no_grad():
        _, expected = TASK.loss(state.model.train()(batch.images), batch.labels)
    _, sums = step.step(start(), batch)
    assert sums.images == len(batch.images)
    assert sums.means() == Sums(len(batch.images), expected).means()


def test_norms_and_biases_do_not_decay() -> None:
    state = start()
    decay = {g["weight_decay"]: g["params"] for g in state.optimizer.param_groups}
    assert set(decay) == {0.0, CONFIG.weight_decay}
    assert all(p.ndim > 1 for p in decay[CONFIG.weight_decay])
    assert all(p.ndim <= 1 for p in decay[0.0])


def test_evaluation_is_the_mean_over_images_whatever_the_batches(batch: Batch) -> None:
    model = start().model
    whole = step.evaluate(TASK, model, [batch])
    parts = [Batch(batch.images[i:j], batch.labels[i:j]) for i, j in ((0, 5), (5, 16))]
    split = step.evaluate(TASK, model, parts)
    assert split["accuracy"] == whole["accuracy"]
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_evaluation_leaves_the_model_as_it_is(batch: Batch) -> None:
    model = start().model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step.evaluate(TASK, model, [batch])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_the_step_trains_in_training_mode_and_evaluation_does_not(batch: Batch) -> None:
    state, modes = start(), []

    def look(model: nn.Module, args: object) -> None:
        modes.append(model.training)

    state.model.register_forward_pre_hook(look)
    step.evaluate(TASK, state.model, [batch])
    step.step(state, batch)
    step.evaluate(TASK, state.model, [batch])
    assert modes == [False, True, False]


def test_sums_add_up_by_name_and_stay_tensors() -> None:
    make: Callable[[float, int], Sums] = lambda x, n: Sums(n, {"loss": torch.tensor(x)})  # noqa: E731
    total = make(3.0, 2) + make(1.0, 6)
    assert total.images == 8
    assert isinstance(total.values["loss"], torch.Tensor)
    assert total.means() == {"loss": 0.5}
