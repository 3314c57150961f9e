"""Going on with a run: where it is, what may have changed, what its files are then."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bilevel import InputError
from bilevel.train import checkpoint, start, table
from bilevel.train.config import TrainConfig
from bilevel.train.run import MAY_CHANGE


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


OTHER: dict[str, Any] = {
    "model": "biformer_tiny",
    "image_size": 64,
    "batch_size": 8,
    "lr": 0.5,
    "weight_decay": 0.5,
    "warmup_epochs": 0.5,
    "head": "upernet",
    "dense_weight": 0.5,
    "label_axes": "official",
    "label_smoothing": 0.5,
    "drop_path": 0.5,
    "aug_repeats": 3,
    "hflip": 0.25,
    "train_interpolation": "random",
    "aa": "rand-m9",
    "reprob": 0.5,
    "remode": "rand",
    "mixup": 0.5,
    "cutmix": 0.5,
    "mixup_prob": 0.5,
    "mixup_switch_prob": 0.25,
    "recipe": "digits",
    "grad_accum_steps": 2,
    "opt": "sgd",
    "opt_eps": 1e-5,
    "momentum": 0.5,
    "min_lr": 0.5,
    "warmup_lr": 0.5,
    "layer_decay": 0.5,
    "clip_grad": 0.5,
    "model_ema_decay": 0.5,
    "amp": "fp16",
    "sync_bn": True,
    "seed": 5,
}


def test_what_may_change_and_what_may_not_are_all_fields() -> None:
    names = {field.name for field in fields(TrainConfig)}
    assert names == {*OTHER, *MAY_CHANGE, "epochs", "task"}  # of tasks there is one


@pytest.mark.parametrize("name", OTHER)
def test_another_setting_is_refused_and_the_run_is_left_as_it_is(
    name: str, copied: Path, quiet: Console
) -> None:
    edit(copied, **{name: OTHER[name]})
    before = {path: path.read_bytes() for path in copied.rglob("*.*")}
    with pytest.raises(InputError, match=rf"but {name} was .* and is {OTHER[name]!r}; set them"):
        start.resume(copied, quiet)
    assert {path: path.read_bytes() for path in copied.rglob("*.*")} == before


def test_a_change_within_the_model_is_refused(copied: Path, quiet: Console) -> None:
    model = json.loads((copied / "config.json").read_text())["architecture"]
    edit(copied, architecture=model | {"drop_path": 0.5})
    with pytest.raises(InputError, match="but architecture was"):
        start.resume(copied, quiet)


def test_more_epochs_are_done_in_words_and_rows_stay(copied: Path, trained: Any) -> None:
    edit(copied, epochs=5)
    before = (copied / "metrics.csv").read_text()
    said = StringIO()
    start.resume(copied, Console(file=said, width=200))
    assert "going on after epoch 3 of 5" in said.getvalue()
    assert "epochs was 3 and is 5: the learning rate goes on as in 5 epochs" in said.getvalue()
    after = (copied / "metrics.csv").read_text()
    assert after.startswith(before)
    assert [row["epoch"] for row in table.read(copied / "metrics.csv", 5)] == [1, 2, 3, 4, 5]
    position = checkpoint.read_position(copied / "checkpoints" / "step-20.safetensors")
    assert (position.step, position.epoch, position.settings["epochs"]) == (20, 5, 5)


def test_fewer_epochs_than_are_done_are_refused(copied: Path, quiet: Console) -> None:
    edit(copied, epochs=2)
    with pytest.raises(InputError, match=r"expected epochs of at least 3 in .*, got 2"):
        start.resume(copied, quiet)


def test_where_and_how_it_is_computed_may_change(
    copied: Path, trained: Any, stripes: Path, tmp_path: Path, quiet: Console
) -> None:
    (tmp_path / "moved").symlink_to(stripes)
    edit(copied, workers=1, data=str(tmp_path / "moved"), out="/nowhere")
    assert start.resume(copied, quiet) == trained.test


def test_a_run_that_goes_on_replaces_its_files_and_writes_into_none(
    copied: Path, tmp_path: Path, quiet: Console
) -> None:
    edit(copied, epochs=4)
    written = ("metrics.csv", "curves.png", "predictions.png")
    old = {name: (copied / name).read_bytes() for name in written}
    for name in written:
        os.link(copied / name, tmp_path / name)
    start.resume(copied, quiet)
    for name in written:
        assert (tmp_path / name).read_bytes() == old[name]
        assert (copied / name).stat().st_ino != (tmp_path / name).stat().st_ino
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_filled_is_not_left_behind(
    config: TrainConfig, quiet: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., int] = Path.write_text

    def full_disk(path: Path, text: str, *args: Any) -> int:
        if "data" in path.name:
            write(path, text[:9])
            raise OSError(28, "No space left on device")
        return write(path, text, *args)

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(InputError, match=r"cannot create the folder .*No space left"):
        start.train(replace(config, out=tmp_path / "run"), quiet)
    assert list(tmp_path.iterdir()) == []
