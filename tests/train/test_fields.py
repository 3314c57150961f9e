"""Every field of a config arrives: another value changes what it should, and nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from torch import nn

from bilevel import ArgumentError
from bilevel.models.config import MODELS
from bilevel.train import config as configs
from bilevel.train import loop, start
from bilevel.train.config import TaskName, TrainConfig
from bilevel.train.data import Batch
from bilevel.train.recipes import DIGITS
from bilevel.train.step import State
from bilevel.train.step import step as one_step
from bilevel.train.tasks import TASKS


class Stop(Exception):
    """A run has come to its first step."""


def first_step(
    config: TrainConfig, out: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the first step of a run is given, and makes of it."""
    seen: dict[str, Any] = {}
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.append(type(model).__name__))

    def step(state: State, batch: Batch) -> None:
        outputs = state.model.train()(batch.images)
        seen["weights"] = [float(p.detach().contiguous().sum()) for p in state.model.parameters()]
        seen["images"] = batch.images.tolist()
        seen["loss"] = float(state.task.loss(outputs, batch.labels)[0].detach())
        seen["lr"] = [state.schedule(step) for step in range(12)]
        groups = state.optimizer.param_groups
        seen["decay"] = {group["weight_decay"] for group in groups}
        seen["optimizer"] = [type(state.optimizer), groups[0].get("eps"), groups[0].get("momentum")]
        seen["layers"] = {group.get("lr_scale") for group in groups}
        seen["step"] = {name: getattr(state.config, name) for name in OF_STEPS}
        mixup = {**vars(state.mixing._mixup)} if state.mixing else None
        seen["mixing"] = mixup and [mixup[name] for name in OF_MIXUP]
        seen["average"], seen["scales"] = state.average is None, state.scaler.is_enabled()
        seen["prepared"] = [*compiled, *map(_prepared, state.model.modules())]
        raise Stop

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(Stop):
        start.train(replace(config, out=out), quiet)
    monkeypatch.undo()
    return seen


def _prepared(module: nn.Module) -> tuple[Any, ...]:
    """How a module is made ready: order of its weights in memory, what it keeps of its blocks."""
    weight = module.weight.stride() if isinstance(module, nn.Conv2d) else None
    return weight, getattr(module, "checkpointing", None)


@pytest.fixture(scope="module")
def usual(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The first step of the config itself."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        out = tmp_path_factory.mktemp("fields") / "run"
        return first_step(config, out, Console(quiet=True), monkeypatch)


OF_MIXUP = ("mixup_alpha", "cutmix_alpha", "mix_prob", "switch_prob", "num_classes")
OF_STEPS = ("grad_accum_steps", "clip_grad", "model_ema_decay", "amp")
"""Fields that a step reads itself; what it does is in the tests of the optimizer."""

ARRIVES: dict[str, tuple[Any, set[str]]] = {
    "model": ("biformer_tiny", {"weights", "loss", "prepared"}),
    "image_size": (48, {"images", "loss"}),
    "epochs": (2, {"lr"}),
    "batch_size": (8, {"images", "loss", "lr"}),
    "lr": (2e-3, {"lr"}),
    "grad_accum_steps": (2, {"step"}),
    "opt": ("sgd", {"optimizer"}),
    "opt_eps": (1e-6, {"optimizer"}),
    "min_lr": (1e-4, {"lr"}),
    "warmup_lr": (1e-4, {"lr"}),
    "weight_decay": (0.1, {"decay"}),
    "layer_decay": (0.5, {"layers"}),
    "clip_grad": (1.0, {"step"}),
    "model_ema_decay": (0.9, {"step", "average"}),
    "amp": ("fp16", {"step", "scales"}),
    "channels_last": (True, {"prepared"}),
    "compile": (True, {"prepared"}),
    "checkpoint_blocks": (True, {"prepared"}),
    "warmup_epochs": (0.5, {"lr"}),
    "label_smoothing": (0.0, {"loss"}),
    "drop_path": (0.9, {"loss"}),
    "seed": (1, {"weights", "images", "loss"}),
    "hflip": (1.0, {"images", "loss"}),
    "train_interpolation": ("bilinear", {"images", "loss"}),
    "aa": ("rand-m9-n3-p1-inc1", {"images", "loss"}),
    "reprob": (1.0, {"images", "loss"}),
    "mixup": (0.5, {"mixing"}),
    "cutmix": (0.5, {"mixing"}),
    "aug_repeats": (2, {"images", "loss"}),
    "workers": (1, set()),
}


@pytest.mark.parametrize("field", ARRIVES)
def test_a_field_changes_what_it_should_and_nothing_else(
    field: str,
    usual: dict[str, Any],
    config: TrainConfig,
    quiet: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value, expected = ARRIVES[field]
    assert value != getattr(config, field)
    other = replace(config, **{field: value})
    seen = first_step(other, tmp_path / "run", quiet, monkeypatch)
    assert {name for name in usual if seen[name] != usual[name]} == expected


def test_no_field_is_left_out() -> None:
    # In the tests of data, runs, tasks, recipes, optimizers, augmentation and token labels.
    elsewhere = {"data", "out", "device", "task", "head", "recipe", "momentum"}
    elsewhere |= {"data_dir", "dataset_download", "remode", "mixup_prob", "mixup_switch_prob"}
    elsewhere |= {"label_maps", "dense_weight", "label_axes"}
    elsewhere |= {"sync_bn", "shard", "save_minutes"}  # in those of several processes, and survival
    assert {field.name for field in fields(TrainConfig)} == set(ARRIVES) | elsewhere


def test_names_of_models_and_tasks_are_those_of_the_tables() -> None:
    assert set(get_args(vars(configs)["ModelName"])) == set(MODELS)
    assert set(get_args(TaskName)) == set(TASKS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_what_its_table_says_but_for_data_and_drop_path(name: str) -> None:
    config = TrainConfig(data="", model=name, drop_path=0.3)
    shape = config.architecture(num_classes=7, in_chans=1)
    assert (shape.num_classes, shape.in_chans, shape.drop_path) == (7, 1, 0.3)
    assert replace(shape, num_classes=1000, in_chans=3, drop_path=0) == replace(
        MODELS[name], drop_path=0
    )


def test_a_name_of_no_model_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"expected model to be one of .*micro.*'resnet'"):
        TrainConfig(data="", model="resnet")


def test_a_run_does_not_depend_on_what_was_drawn_before(
    usual: dict[str, Any],
    config: TrainConfig,
    quiet: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.rand(3)
    assert first_step(config, tmp_path / "run", quiet, monkeypatch) == usual


@pytest.mark.parametrize("name", MODELS)
def test_the_drop_path_is_the_models_own_unless_it_is_given(name: str) -> None:
    own = MODELS[name].drop_path
    assert own > 0
    for config in (TrainConfig(data=""), DIGITS):
        assert replace(config, model=name).architecture(2, 3).drop_path == own
        given = replace(config, model=name, drop_path=0.0)
        assert given.architecture(2, 3).drop_path == 0.0


def test_the_drop_path_that_was_resolved_is_saved_and_shown(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise Stop

    monkeypatch.setattr(loop, "step", stop)
    for given, expected in ((None, 0.05), (0.25, 0.25)):
        said, out = StringIO(), tmp_path / str(given)
        with pytest.raises(Stop):
            start.train(replace(config, drop_path=given, out=out), Console(file=said, width=500))
        saved = json.loads((out / "config.json").read_text())
        assert (saved["drop_path"], saved["architecture"]["drop_path"]) == (expected, expected)
        assert f"training biformer_micro, drop path {expected}, on" in said.getvalue()
        assert "recipe basic, with image_size 32 for 224, epochs 3 for 100" in said.getvalue()
        assert ("drop_path 0.25 for 0.05" in said.getvalue()) == (given == 0.25)
        assert f", drop_path {expected}, " in said.getvalue()
        assert (saved["recipe"], saved["deviations"]["epochs"]) == ("basic", [100, 3])
        assert ("drop_path" in saved["deviations"]) == (given == 0.25)
        assert "train: 16 images of 2 classes in" in said.getvalue()
        assert "test: 4 images held out of these" in said.getvalue()


def test_each_epoch_and_each_seed_has_its_own_order_and_augmentation(
    config: TrainConfig, quiet: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], float, float]] = []

    def step(state: State, batch: Batch) -> Any:
        drawn = float(torch.rand(()))  # as drop path draws
        seen.append((batch.labels.tolist(), float(batch.images.sum()), drawn))
        return one_step(state, batch)

    monkeypatch.setattr(loop, "step", step)
    for seed in (0, 1):
        start.train(replace(config, seed=seed, epochs=2, out=tmp_path / str(seed)), quiet)
    steps = len(seen) // 4
    epochs = [seen[i * steps : (i + 1) * steps] for i in range(4)]
    for part in range(3):
        assert len({str([entry[part] for entry in epoch]) for epoch in epochs}) == 4


def test_the_data_the_device_and_the_folder_arrive(
    config: TrainConfig, quiet: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def step(state: State, batch: Batch) -> None:
        seen["model"] = {p.device.type for p in state.model.parameters()}
        seen["batch"] = {batch.images.device.type, batch.labels.device.type}
        seen["channels"] = batch.images.shape[1]
        raise Stop

    monkeypatch.setattr(loop, "step", step)
    for name, channels in (("digits", 1), (config.data, 3)):
        for device in ("cpu", "meta"):
            out = tmp_path / f"{channels}-{device}"
            with pytest.raises(Stop):
                start.train(replace(config, data=name, device=device, out=out), quiet)
            assert seen == {"model": {device}, "batch": {device}, "channels": channels}
            assert (out / "config.json").is_file()
