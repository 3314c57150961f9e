"""The folder of a run: begun, read again, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from bilevel import BilevelError, InputError
from bilevel.models import BiFormerConfig
from bilevel.models import config as configs
from bilevel.train import checkpoint, data, start
from bilevel.train import run as runs
from bilevel.train.config import TrainConfig


def begin(config: TrainConfig) -> runs.Run:
    """The folder of a run, without training."""
    found = data.find(config)
    architecture = config.architecture(len(found.classes), found.in_chans)
    return runs.create(config, architecture, found.summary())


def test_a_run_that_was_begun_is_the_run_that_is_reopened(
    config: TrainConfig, tmp_path: Path
) -> None:
    run = begin(replace(config, out=tmp_path / "run", seed=7))
    assert runs.reopen(run.folder) == run
    assert (run.config.seed, run.config.out) == (7, run.folder)
    assert runs.reopen(run.folder, "meta").config.device == "meta"


def test_the_whole_model_is_saved(trained: Any) -> None:
    saved = json.loads((trained.folder / "config.json").read_text())
    assert (saved["model"], saved["epochs"], saved["seed"]) == ("biformer_micro", 3, 0)
    micro = configs.MODELS["biformer_micro"]
    expected = replace(micro, num_classes=2, drop_path=0.05)
    assert BiFormerConfig.from_dict(saved["architecture"]) == expected


def test_a_run_outlives_a_change_of_the_model_of_its_name(
    trained: Any, quiet: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = runs.load(trained.folder)
    other = replace(configs.MODELS["biformer_micro"], embed_dims=(32, 32, 32, 32), regions=2)
    monkeypatch.setitem(configs.MODELS, "biformer_micro", other)
    run, again = runs.load(trained.folder)
    assert run.architecture.regions == 4
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    shutil.copytree(trained.folder, tmp_path / "run")
    assert start.resume(tmp_path / "run", quiet) == trained.test


def test_a_trained_run_is_loaded_with_its_weights(trained: Any) -> None:
    run, model = runs.load(trained.folder)
    assert run.data.classes == ["across", "down"]
    assert run.config.out == run.folder == trained.folder
    assert not model.training
    kept = checkpoint.read(run.checkpoint(), "cpu").tensors
    assert all(torch.equal(v, kept[f"model.{key}"]) for key, v in model.state_dict().items())


def test_runs_are_never_overwritten(
    trained: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in trained.folder.rglob("*.*")}
    with pytest.raises(InputError, match="cannot create the folder of the run"):
        begin(replace(config, out=trained.folder))
    assert {path: path.read_bytes() for path in trained.folder.rglob("*.*")} == before
    monkeypatch.chdir(tmp_path)
    name = Path(config.data).name
    folders = [begin(config).folder for _ in range(2)]
    assert folders == [Path("runs", f"{name}-1"), Path("runs", f"{name}-2")]
    assert all((tmp_path / folder / "config.json").is_file() for folder in folders)


def test_a_run_that_began_within_its_data_is_tested_and_goes_on(
    config: TrainConfig,
    stripes: Path,
    quiet: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(shutil.copytree(stripes, tmp_path / "images"))
    monkeypatch.chdir(root)
    short = replace(config, epochs=1)
    for data_name in (".", "../images", "down/.."):
        start.train(replace(short, data=data_name), quiet)
    start.train(replace(short, data=".", out=Path("down", "a run")), quiet)
    folders = [*(Path("runs", f"images-{i}") for i in (1, 2, 3)), Path("down", "a run")]
    assert sorted(path for path in (root / "runs").iterdir()) == [root / f for f in folders[:3]]
    for folder in folders:
        run, _ = runs.load(folder)
        assert run.data == (["across", "down"], 3, 16, 4)
        assert runs.find_data(run).summary() == run.data
        start.resume(folder, quiet)
    monkeypatch.chdir(root / "down")
    assert begin(replace(short, data="..")).folder == Path("runs", "images-1")


def test_the_root_of_all_folders_has_a_name_too(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = data.find(config)
    run = runs.create(replace(config, data="/"), config.architecture(2, 3), found.summary())
    assert run.folder == Path("runs", "root-1")


def test_a_folder_that_cannot_be_created_is_an_error(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="cannot create the folder of the run"):
        begin(config)


def test_data_that_changed_are_noticed(
    config: TrainConfig, stripes: Path, quiet: Console, tmp_path: Path
) -> None:
    shutil.copytree(stripes, tmp_path / "images")
    run = begin(replace(config, data=str(tmp_path / "images"), out=tmp_path / "run"))
    assert runs.find_data(run).summary() == run.data
    (tmp_path / "images" / "down").rename(tmp_path / "images" / "up")
    for use in (lambda: start.resume(run.folder, quiet), lambda: runs.find_data(run)):
        with pytest.raises(InputError, match=r"expected the data of the run .*'down'.*got .*'up'"):
            use()


Damage = Callable[[Path], Any]


def change(name: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


def lack(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def hold(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


WEIGHTS = "checkpoints/step-12.safetensors"


def only(damage: Damage) -> Damage:
    """A damage to the only checkpoint of a run."""

    def do(folder: Path) -> None:
        for step in (4, 8):
            (folder / "checkpoints" / f"step-{step}.safetensors").unlink()
        damage(folder)

    return do


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no data": (lack("data.json"), "expected the data of a run in"),
    "half data": (hold("data.json", b"{"), "expected the data of"),
    "no config": (lack("config.json"), "cannot read .*config.json"),
    "half config": (hold("config.json", b"{"), "expected the config of a run in"),
    "list": (hold("config.json", b"[]"), "expected the config of a run in"),
    "model": (change("config.json", "biformer_micro", "resnet"), "expected model to be one of"),
    "task": (change("config.json", "classify", "paint"), "expected task to be one of"),
    "type": (
        change("config.json", '"image_size": 32', '"image_size": "32"'),
        "image_size to be an i",
    ),
    "field": (change("config.json", '"epochs"', '"epoch"'), "expected the config of a run in"),
    "no model": (change("config.json", '"architecture"', '"shape"'), "fields of a BiFormerConfig"),
    "half model": (
        change("config.json", '"regions"', '"region"'),
        "missing regions, unknown r",
    ),
    "other model": (change("config.json", "256", "512"), "parameters of the model of"),
    "classes": (
        change("data.json", '"down"', '"down", "up"'),
        r"expected as many .* \(2, 3\), g",
    ),
    "no checkpoint": (only(lack(WEIGHTS)), "expected a checkpoint in .*checkpoints, found none"),
    "half checkpoint": (only(hold(WEIGHTS, b"x" * 99)), "expected a checkpoint in"),
    "other tensors": (
        only(lambda folder: save_file({"a": torch.zeros(1)}, folder / WEIGHTS)),
        "expected a checkpoint in .*, found none",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_clear_error(copied: Path, damage: str) -> None:
    do, message = DAMAGES[damage]
    do(copied)
    with pytest.raises(BilevelError, match=message):
        runs.load(copied)


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the folder of a run"):
        runs.load(tmp_path)


def test_a_run_of_an_earlier_version_is_read_and_not_trained_further(
    copied: Path, quiet: Console
) -> None:
    _, model = runs.load(copied)
    (copied / WEIGHTS).rename(copied / "checkpoint.safetensors")
    shutil.rmtree(copied / "checkpoints")
    _, again = runs.load(copied)
    old, new = model.state_dict(), again.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(InputError, match="is of an earlier version, whose models can be tested"):
        start.resume(copied, quiet)
