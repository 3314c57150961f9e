"""The step and its schedule."""

from dataclasses import replace

import pytest
import torch

from bilevel.train import data, step
from bilevel.train.config import DIGITS
from bilevel.train.data import Batch
from bilevel.train.loop import build_model

CONFIG = replace(DIGITS, image_size=32, batch_size=16, epochs=5, warmup_epochs=1)


def start(config=CONFIG):
    torch.manual_seed(0)
    return step.initial_state(build_model(config, 10, 1), config, steps_per_epoch=4)


def batch():
    return next(data.batches(data.load(CONFIG).train, CONFIG, shuffle_seed=0))


def test_learning_rate_rises_linearly_then_falls_as_a_cosine():
    rates = [step.learning_rate(i, 2.0, 4, 12) for i in range(13)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.0)


def test_steps_lower_the_loss_of_a_batch():
    state, one = start(), batch()
    losses = []
    for _ in range(15):
        state, metrics = step.step(state, one)
        losses.append(metrics.mean_loss)
    assert losses[-1] < losses[0] / 1.5
    assert state.step == 15


def test_the_schedule_sets_the_learning_rate_of_each_step():
    state, one = start(), batch()
    for i in range(3):
        state, _ = step.step(state, one)
        assert {g["lr"] for g in state.optimizer.param_groups} == {state.schedule(i)}


def test_norms_and_biases_do_not_decay():
    state = start()
    decay = {g["weight_decay"]: g["params"] for g in state.optimizer.param_groups}
    assert set(decay) == {0.0, CONFIG.weight_decay}
    assert all(p.ndim > 1 for p in decay[CONFIG.weight_decay])
    assert all(p.ndim <= 1 for p in decay[0.0])


def test_evaluation_is_the_mean_over_images_whatever_the_batches():
    model, one = start().model, batch()
    whole = step.evaluate(model, [one])
    parts = [Batch(one.images[i:j], one.labels[i:j]) for i, j in ((0, 5), (5, 16))]
    split = step.evaluate(model, parts)
    assert split.images == 16
    assert split.accuracy == whole.accuracy
    assert split.mean_loss == pytest.approx(whole.mean_loss, rel=1e-5)


def test_evaluation_leaves_the_model_as_it_is():
    model = start().model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step.evaluate(model, [batch()])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
