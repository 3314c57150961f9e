"""Optimizers by timm's names, averaged weights, precision and accumulation."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from bilevel import ArgumentError
from bilevel.models.modules import DropPath
from bilevel.train import average, checkpoint, step, table
from bilevel.train import start as begin
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.optimizer import optimizer_of
from bilevel.train.recipes import config
from bilevel.train.run import build_model

CONFIG = config("digits", "digits", image_size=32, batch_size=8, epochs=5, warmup_epochs=0)
CONFIG = replace(CONFIG, drop_path=0.0, label_smoothing=0.0)


def start(**values: Any) -> step.State:
    torch.manual_seed(0)
    run = replace(CONFIG, **values)
    return step.initial_state(build_model(run, run.architecture(10, 1)), run, steps_per_epoch=4)


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 1, 32, 32, generator=generator), torch.arange(8))


def weights(state: step.State) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def after(batch: Batch, steps: int = 1, **values: Any) -> dict[str, Tensor]:
    state = start(**values)
    for _ in range(steps):
        state, _ = step.step(state, batch)
    return weights(state)


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadamw", "lamb", "lion", "adafactor"])
def test_an_optimizer_has_its_values(name: str) -> None:
    from timm.optim import get_optimizer_info

    state = start(opt=name, opt_eps=1e-5, momentum=0.7, weight_decay=0.3, lr=0.01)
    info, found = get_optimizer_info(name), state.optimizer
    assert type(found) is info.opt_class
    assert {group["weight_decay"] for group in found.param_groups} == {0.0, 0.3}
    assert not info.has_eps or found.defaults["eps"] == 1e-5
    assert not info.has_momentum or found.defaults["momentum"] == 0.7


def test_a_name_that_timm_does_not_have_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"optimizer of timm, such as 'adamw'.*got 'adamww'"):
        start(opt="adamww")
    with pytest.raises(ArgumentError, match=r"such as 'adamw', 'sgd', 'lamb', got 'x+'"):
        start(opt="xxxxxxxxx")
    with pytest.raises(ArgumentError, match="first derivatives alone, got 'adahessian'"):
        start(opt="adahessian")
    with pytest.raises(ArgumentError, match="'sgd' refuses its options: Nesterov momentum"):
        start(opt="sgd", momentum=0.0)


def test_layers_below_learn_more_slowly(batch: Batch) -> None:
    state, _ = step.step(start(layer_decay=0.5, lr=0.01), batch)
    scales = {group["lr_scale"] for group in state.optimizer.param_groups}
    assert scales == {0.5**i for i in range(7)}  # the stem, five blocks, the head
    rates = {group["lr"] / group["lr_scale"] for group in state.optimizer.param_groups}
    assert rates == {state.schedule(0)}


def test_gradients_are_cut_to_a_norm(batch: Batch) -> None:
    plain: dict[str, Any] = {"opt": "momentum", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    before = weights(start(**plain))
    names = [name for name, _ in start().model.named_parameters()]
    moves = []
    for norm in (None, 1e9, 0.01):
        found = after(batch, clip_grad=norm, **plain)
        moves.append(torch.cat([(found[n] - before[n]).flatten() for n in names]))
    assert torch.equal(moves[0], moves[1])
    assert moves[2].norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moves[2] / moves[2].norm(), moves[0] / moves[0].norm())


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_add_up_to_it(parts: int) -> None:
    torch.manual_seed(0)
    drop = DropPath(0.5)
    drop.kept = torch.arange(8) % 3 > 0
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), drop)
    batch = Batch(torch.randn(8, 1, 2, 2), torch.arange(8) % 3)
    found = []
    for number in (1, parts):
        run = replace(CONFIG, grad_accum_steps=number, opt="sgd")
        state = step.initial_state(model, run, 1)
        first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state, sums = step.step(state, batch)
        found.append((weights(state), sums.means(), sums.images))
        model.load_state_dict(first)
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1])
    assert found[0][2] == found[1][2] == 8
    assert len(drop.kept) == 8


def test_the_average_is_that_of_the_weights(batch: Batch) -> None:
    state = start(model_ema_decay=0.75)
    expected = weights(state)
    for _ in range(3):
        state, _ = step.step(state, batch)
        for name, tensor in state.model.state_dict().items():
            moved = expected[name] * 0.75 + tensor * 0.25
            expected[name] = moved if tensor.is_floating_point() else tensor.clone()
    assert state.average is not None
    torch.testing.assert_close(dict(state.average), expected)
    raw = weights(state)
    with average.averaged(state.model, state.average) as model:
        assert same(dict(state.average), model.state_dict())
        assert not same(raw, model.state_dict())
    assert same(raw, weights(state))
    assert start().average is None


def test_the_average_and_the_scale_go_on_from_a_checkpoint(batch: Batch, tmp_path: Path) -> None:
    values: dict[str, Any] = {"model_ema_decay": 0.5, "amp": "fp16"}
    state, bad = start(**values), Batch(batch.images / 0, batch.labels)
    for each in (batch, bad, batch):
        state, _ = step.step(state, each)
    assert state.scaler.get_scale() == 2.0**15
    path = tmp_path / "state.safetensors"
    checkpoint.write(path, checkpoint.content(state, 1, {}, None))
    again, _ = checkpoint.restore(start(**values), checkpoint.read(path, "cpu"), path)
    assert again.scaler.state_dict() == state.scaler.state_dict()
    for _ in range(2):
        (state, _), (again, _) = step.step(state, batch), step.step(again, batch)
    assert state.average is not None
    assert again.average is not None
    assert same(dict(state.average), dict(again.average))
    assert same(weights(state), weights(again))


def test_the_average_is_tested_beside_the_weights(stripes: Path, tmp_path: Path) -> None:
    run = config("basic", str(stripes), model="biformer_micro", image_size=32, epochs=1, workers=0)
    said = StringIO()
    for decay in (0.0, 0.9):
        out = tmp_path / str(decay)
        each = replace(run, batch_size=4, out=out, model_ema_decay=decay)
        test = begin.train(each, Console(file=said, width=300))
        (row,) = table.read(out / "metrics.csv", 1)
        assert table.measured(row, "test") == test
        assert list(table.measured(row, "ema")) == (["loss", "accuracy"] if decay else [])
    assert table.measured(row, "ema")["loss"] != test["loss"]
    assert said.getvalue().count("  ema loss") == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_changes_the_computation_and_not_the_weights(
    precision: str, batch: Batch
) -> None:
    state = start(amp=precision)
    dtypes = set()
    state.model.register_forward_hook(lambda module, args, out: dtypes.add(out.dtype))
    next_state, sums = step.step(state, batch)
    assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {p.dtype for p in next_state.model.parameters()} == {torch.float32}
    assert sums.mean("loss") == pytest.approx(step.step(start(), batch)[1].mean("loss"), rel=0.02)
    assert state.scaler.is_enabled() == (precision == "fp16")
    assert not same(weights(start()), weights(next_state))


@pytest.mark.parametrize("values", [{}, {"amp": "fp16"}, {"opt": "lion"}, {"clip_grad": 1.0}])
def test_what_is_not_finite_changes_no_weight(values: dict[str, Any], batch: Batch) -> None:
    state = start(**values)
    state, _ = step.step(state, batch)
    before = weights(state)
    bad = Batch(batch.images.clone(), batch.labels)
    bad.images[3, 0, 5, 5] = torch.nan
    state, sums = step.step(state, bad)
    assert sums.mean("loss") != sums.mean("loss")
    assert same(before, weights(state))
    assert (state.step, int(state.skipped)) == (2, 1)
    state, _ = step.step(state, batch)
    assert int(state.skipped) == 0
    assert not same(before, weights(state))


def test_a_model_is_made_ready(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    state = start(channels_last=True, checkpoint_blocks=True, compile=True)
    assert compiled == [state.model]
    stem: Any = state.model.get_submodule("downsamples.0.conv2")
    assert stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert not stem.weight.is_contiguous()
    plain = start()
    stem = plain.model.get_submodule("downsamples.0.conv2")
    assert stem.weight.is_contiguous()
    assert kept_bytes(state.model, batch) < kept_bytes(plain.model, batch) / 2
    first, second = (step.step(each, batch)[1].mean("loss") for each in (plain, state))
    assert first == pytest.approx(second)


def kept_bytes(model: nn.Module, batch: Batch) -> int:
    """What a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(batch.images)
    return sum(sizes)


def test_the_digits_have_the_optimizer_that_they_had() -> None:
    run: TrainConfig = config("digits", "digits")
    model = build_model(run, run.architecture(10, 1))
    found = optimizer_of(model, run)
    assert type(found) is torch.optim.AdamW
    assert found.defaults["eps"] == 1e-8
    assert sorted(len(group["params"]) for group in found.param_groups) == sorted(
        (sum(p.ndim <= 1 for p in model.parameters()), sum(p.ndim > 1 for p in model.parameters()))
    )
