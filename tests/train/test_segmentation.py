"""Segmentation as a task of the trainer: its functions, and runs from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bilevel import InputError
from bilevel.cli import main
from bilevel.heads import Segmenter
from bilevel.train import data, recipes, start, table
from bilevel.train.config import SegmentationHead
from bilevel.train.dense import label_sets
from bilevel.train.metrics import Sums
from bilevel.train.run import load
from bilevel.train.tasks import task_of

SCENES = replace(
    recipes.config("digit-scenes", "digit-scenes"), image_size=64, epochs=1, batch_size=4
)
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sets, "TRAIN_SCENES", 8)
    monkeypatch.setattr(label_sets, "TEST_SCENES", 5)


def test_the_summary_is_of_all_pixels_together() -> None:
    task = task_of(SCENES)
    logits = torch.eye(3)[torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 0]]])].permute(0, 3, 1, 2)
    labels = torch.tensor([[[0, 1], [2, 255]], [[1, 0], [0, 255]]])
    whole = Sums(2, task.measure(logits, labels))
    parts = [Sums(1, task.measure(logits[i : i + 1], labels[i : i + 1])) for i in (0, 1)]
    said = task.summary(whole)
    assert list(said) == ["loss", "accuracy", "mIoU"]
    assert said["accuracy"] == pytest.approx(5 / 6)
    assert said["mIoU"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert task.summary(parts[0] + parts[1])["mIoU"] == said["mIoU"]
    words = task.describe(logits, ("sky", "sea", "land"))
    assert words == ["land 0.5000, sky 0.2500, sea 0.2500", "sky 0.5000, sea 0.5000"]


@pytest.mark.parametrize("head", ["semantic-fpn", "upernet"])
def test_a_run_is_trained_tested_and_read_again(
    head: SegmentationHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SCENES, head=head, out=tmp_path / "run")
    measured = start.train(config, QUIET)
    assert list(measured) == ["loss", "accuracy", "mIoU"]
    run, model = load(tmp_path / "run")
    assert isinstance(model, Segmenter)
    assert (model.auxiliary is not None) == (head == "upernet")
    assert run.data.classes == ["background", *map(str, range(10))]
    main(["eval", str(tmp_path / "run")])
    assert capsys.readouterr().out.splitlines()[-1] == f"test mIoU {measured['mIoU']:.4f}"
    Image.new("RGB", (30, 50)).save(tmp_path / "a.png")
    main(["predict", str(tmp_path / "run"), str(tmp_path / "a.png")])
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.png'}: ")
    assert (tmp_path / "run" / "predictions.png").is_file()


def folder(root: Path) -> Path:
    """Ten pictures of two halves, with label maps of the size of each."""
    for part in ("images", "masks"):
        (root / part).mkdir()
    for i in range(10):
        labels = np.zeros((40 + i, 60), np.uint8)
        labels[:, : 20 + i] = 1
        labels[:2] = 255
        Image.fromarray(labels).save(root / "masks" / f"{i}.png")
        Image.fromarray(np.stack([labels % 255 * 200] * 3, -1)).save(root / "images" / f"{i}.png")
    return root


def test_a_folder_of_pictures_is_cropped_to_train_on_and_whole_to_test_on(tmp_path: Path) -> None:
    config = recipes.config("basic", str(folder(tmp_path)), task="segment", image_size=64)
    found = data.find(config)
    assert found.summary() == (["class 0", "class 1"], 3, 8, 2)
    torch.manual_seed(0)
    for each, i in ((found.train, 3), (found.test, 1)):
        image, labels = each[i]
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 64, 64))
        assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (64, 64))
        assert set(labels.unique().tolist()) <= {0, 1, 255}
    image, labels = found.test[0]  # 64 pixels wide; below it there is nothing
    inside = labels != 255
    assert bool((image[0] > 100)[inside].eq(labels[inside] == 1).float().mean() > 0.95)
    assert bool((labels[-6:] == 255).all())
    options = "--task segment --model biformer_micro --image-size 64 --batch-size 4 --workers 0"
    how = "--epochs 8 --lr 4e-3 --warmup-epochs 1 --drop-path 0"
    main(["train", str(tmp_path), *options.split(), *how.split(), "--out", str(tmp_path / "run")])
    rows = table.read(tmp_path / "run" / "metrics.csv", 8)
    assert rows[-1]["test_mIoU"] > 0.8  # what is bright is a class


def test_what_cannot_be_segmented_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected --task segment for 'digit-scenes', got 'class"):
        data.find(replace(SCENES, task="classify"))
    with pytest.raises(InputError, match="expected a folder with label maps to segment, got 'dig"):
        data.find(replace(SCENES, data="digits"))
    with pytest.raises(InputError, match="expected a folder images or JPEGImages"):
        data.find(replace(SCENES, data=str(tmp_path)))


def test_regions_are_the_official_ones_of_segmentation() -> None:
    config = recipes.config("basic", "", task="segment", model="biformer_small")
    assert config.architecture(150, 3).regions == 8
    assert replace(config, task="classify").architecture(150, 3).regions == 7
    assert SCENES.architecture(11, 3).regions == 4
