"""Whole runs: what they leave behind, that they repeat, that they go on."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from bilevel import BilevelError, InputError
from bilevel.train import checkpoint, loop
from bilevel.train.config import TrainConfig

CONFIG = TrainConfig(
    data="",
    model="biformer_micro",
    image_size=32,
    epochs=3,
    batch_size=4,
    lr=1e-3,
    warmup_epochs=1,
    workers=0,
)
QUIET = Console(quiet=True)


def run(stripes, out, **fields):
    return loop.train(replace(CONFIG, data=str(stripes), out=out, **fields), QUIET)


def same(a, b):
    return (a / loop.CHECKPOINT).read_bytes() == (b / loop.CHECKPOINT).read_bytes()


@pytest.fixture(scope="module")
def trained(stripes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run(stripes, out)


def test_a_run_leaves_its_files_and_nothing_half_written(trained):
    out, accuracy = trained
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "data.json",
        "metrics.csv",
        "checkpoint.safetensors",
        "curves.png",
        "predictions.png",
    }
    config = json.loads((out / "config.json").read_text())
    assert (config["model"], config["epochs"], config["seed"]) == ("biformer_micro", 3, 0)
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["test_accuracy"]) == accuracy
    for name in ("curves.png", "predictions.png"):
        with Image.open(out / name) as picture:
            low, high = picture.convert("L").getextrema()
        assert low < high


def test_the_same_run_gives_the_same_bits(trained, stripes, tmp_path):
    out, accuracy = trained
    assert run(stripes, tmp_path / "again") == accuracy
    assert same(out, tmp_path / "again")
    run(stripes, tmp_path / "other", seed=1)
    assert not same(out, tmp_path / "other")


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(trained, stripes, tmp_path, monkeypatch):
    out, accuracy = trained
    epoch = loop._epoch

    def stop_in_the_third(config, source, state, number, progress):
        if number == 3:
            raise KeyboardInterrupt
        return epoch(config, source, state, number, progress)

    monkeypatch.setattr(loop, "_epoch", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(stripes, tmp_path / "stopped")
    monkeypatch.undo()
    assert not same(out, tmp_path / "stopped")
    assert loop.resume(tmp_path / "stopped", QUIET) == accuracy
    assert same(out, tmp_path / "stopped")


def test_a_run_can_be_read_back(trained):
    out, _ = trained
    config, classes, model = loop.load_run(out)
    assert classes == ["across", "down"]
    assert config.out == out
    assert not model.training
    kept, _ = checkpoint.load(out / loop.CHECKPOINT, "cpu")
    assert all(torch.equal(v, kept[f"model.{key}"]) for key, v in model.state_dict().items())


def test_a_checkpoint_that_fails_to_be_written_leaves_the_old_one(trained, stripes, monkeypatch):
    out, _ = trained
    before = (out / loop.CHECKPOINT).read_bytes()
    _, _, model = loop.load_run(out)
    state = loop.initial_state(model, CONFIG, 4)

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(out / loop.CHECKPOINT, state)
    assert (out / loop.CHECKPOINT).read_bytes() == before
    assert not [path for path in out.iterdir() if "partial" in path.name]


def test_runs_are_never_overwritten(trained, stripes, tmp_path, monkeypatch):
    out, _ = trained
    with pytest.raises(InputError, match="cannot create the folder of the run"):
        run(stripes, out)
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run(stripes, None, epochs=1)
        assert (tmp_path / "runs" / f"{stripes.name}-{number}" / loop.CHECKPOINT).is_file()


def test_a_stop_between_table_and_checkpoint_loses_nothing(trained, stripes, tmp_path, monkeypatch):
    out, accuracy = trained
    save = checkpoint.save

    def stop_after_two(path, state):
        if state.step == 3 * 4:
            raise KeyboardInterrupt
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(stripes, tmp_path / "stopped")
    monkeypatch.undo()
    assert len((tmp_path / "stopped" / "metrics.csv").read_text().splitlines()) == 4
    assert loop.resume(tmp_path / "stopped", QUIET) == accuracy
    assert same(out, tmp_path / "stopped")


def test_data_that_changed_are_noticed(stripes, tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(stripes, images)
    run(images, out, epochs=1)
    (images / "down").rename(images / "up")
    for use in (lambda: loop.resume(out, QUIET), lambda: loop.load_data(loop.load_run(out).config)):
        with pytest.raises(InputError, match=r"expected the data of the run .*'down'.*got .*'up'"):
            use()


def change(name, old, new):
    def damage(folder):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    return damage


DAMAGES = {
    "no data": (lambda folder: (folder / "data.json").unlink(), "expected the data of a run in"),
    "half data": (lambda folder: (folder / "data.json").write_text("{"), "expected the data of"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot read .*config.json"),
    "model": (change("config.json", "biformer_micro", "resnet"), "expected model to be one of"),
    "other model": (change("config.json", "biformer_micro", "biformer_tiny"), "parameters of the "),
    "type": (change("config.json", '"image_size": 32', '"image_size": "32"'), "image_size to be i"),
    "field": (change("config.json", '"epochs"', '"epoch"'), "expected the config of a run in"),
    "classes": (change("data.json", '"down"', '"down", "up"'), "parameters of the model of"),
    "no checkpoint": (
        lambda f: (f / "checkpoint.safetensors").unlink(),
        "expected a checkpoint at",
    ),
    "half checkpoint": (
        lambda f: (f / "checkpoint.safetensors").write_bytes(b"x" * 99),
        "expected a checkpoint at",
    ),
    "other tensors": (
        lambda f: save_file({"a": torch.zeros(1)}, f / "checkpoint.safetensors"),
        "expected a checkpoint of a run at .*, got other tensors",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_clear_error(trained, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    do, message = DAMAGES[damage]
    do(folder)
    with pytest.raises(BilevelError, match=message):
        loop.load_run(folder)


@pytest.mark.parametrize("rows", [None, 0, 2])
def test_a_table_without_the_epochs_of_the_checkpoint_is_an_error(trained, tmp_path, rows):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    table = folder / "metrics.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.unlink() if rows is None else table.write_text("".join(lines[: rows + 1]))
    with pytest.raises(InputError, match=r"expected the (table|rows) of .*metrics\.csv"):
        loop.resume(folder, QUIET)


def test_a_folder_that_cannot_be_created_is_an_error(stripes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="cannot create the folder of the run"):
        run(stripes, None)


def test_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a run"):
        loop.load_run(tmp_path)
    with pytest.raises(InputError, match="expected the folder of a run"):
        loop.resume(tmp_path, QUIET)
