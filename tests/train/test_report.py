"""The page of a run, its findings, its events, and the command that makes it again."""

from __future__ import annotations

import os
import random
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from bilevel.cli.commands import parse
from bilevel.models.config import MODELS
from bilevel.train import load, recipes, table
from bilevel.train.data import Batch
from bilevel.train.events import events
from bilevel.train.findings import WORST, findings
from bilevel.train.progress import Pace
from bilevel.train.report import page
from tests.train.test_recipes import CHANGED

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))

VOID = {"meta", "img", "br"}
CLASSES = ("a cat", "<script>alert(1)</script>", 'Größe "&" 猫')


class Reader(HTMLParser):
    """Takes a page apart; what is not closed in its order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Shift(nn.Module):
    """Takes the class that is written in the first pixel, with the logit in the second."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0, 0]
        return nn.functional.one_hot(first[:, 0].long(), self.classes) * first[:, 1:2]


def batches_of(draw: random.Random, classes: int, images: int) -> tuple[list[Batch], list[Any]]:
    rows = [
        (draw.randrange(classes), draw.randrange(classes), draw.random() * 9) for _ in range(images)
    ]
    pixels = torch.zeros(images, 1, 4, 4)
    for i, (_, found, logit) in enumerate(rows):
        pixels[i, 0, 0, 0], pixels[i, 0, 0, 1] = found, logit
    labels = torch.tensor([label for label, _, _ in rows])
    return [Batch(pixels[i : i + 7], labels[i : i + 7]) for i in range(0, images, 7)], rows


@pytest.mark.parametrize("seed", range(TRIALS))
def test_findings_are_counted_and_the_surest_mistakes_kept(seed: int) -> None:
    draw = random.Random(seed)
    classes, images = draw.randint(2, 6), draw.randint(1, 60)
    batches, rows = batches_of(draw, classes, images)
    found = findings(Shift(classes), batches, tuple(map(str, range(classes))))
    for i in range(classes):
        for j in range(classes):
            count = sum((label, best) == (i, j) for label, best, _ in rows)
            assert int(found.confusion[i, j]) == count
    wrong = sorted((row for row in rows if row[0] != row[1]), key=lambda row: -row[2])[:WORST]
    assert [(m.label, m.found) for m in found.worst] == [row[:2] for row in wrong]
    for mistake, (_, _, logit) in zip(found.worst, wrong, strict=True):
        other = torch.zeros(classes)
        other[0] = logit
        assert mistake.probability == pytest.approx(float(other.softmax(0)[0]), rel=1e-5)


def rows_of(epochs: int) -> list[table.Row]:
    return [
        table.row(i, 0.1, {"loss": 1 / i}, {"loss": 2 / i, "accuracy": 0.5}, {"loss": 1.0}, 10.0)
        for i in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("classes", [CLASSES, tuple(f"<b>{i}" for i in range(30))])
def test_the_page_is_whole_and_shows_what_it_is_told(classes: tuple[str, ...]) -> None:
    batches, rows = batches_of(random.Random(0), len(classes), 90)
    found = findings(Shift(len(classes)), batches, classes)
    run = recipes.config("imagenet", "a & b", epochs=7, mixup=0.3, device="cpu")
    text = page(run, {"folder": Path("runs/<1>")}, rows_of(3), found)
    read = Reader(text)
    sources = [attrs["src"] or "" for tag, attrs in read.tags if tag == "img"]
    assert len(sources) == 2 + len(found.worst)
    assert all(source.startswith("data:image/") for source in sources)
    assert not [tag for tag, attrs in read.tags if tag in ("link", "script", "b") and attrs]
    assert "<script" not in text
    assert "runs/&lt;1&gt;" in text
    assert re.findall(r"<th>(\w+)</th><td>[^<]* <mark>recipe: ([^<]*)</mark>", text) == [
        ("epochs", "300"),
        ("mixup", "0.8"),
    ]
    wrong = sum(label != best for label, best, _ in rows)
    assert f"<p>{wrong} of 90 test images" in text
    assert text.count('class="right"') == (3 if len(classes) == 3 else 0)
    assert "<b>0.5000</b>test accuracy" in text


def test_a_page_without_classes_has_no_mistakes() -> None:
    text = page(recipes.DIGITS, {}, rows_of(1), None)
    Reader(text)
    assert "Mistakes" not in text
    assert "<mark>" not in text


@pytest.mark.parametrize("seed", range(TRIALS))
def test_the_command_makes_the_run_again(seed: int) -> None:
    draw = random.Random(seed)
    data = draw.choice(["digits", "fashion-mnist", "a b/photos", "torch/cifar10"])
    names = draw.sample(list(CHANGED), draw.randint(0, 5))
    values = {name: CHANGED[name] for name in names}
    values |= draw.choice([{}, {"model": draw.choice(list(MODELS)), "seed": 7, "workers": 5}])
    values |= draw.choice([{}, {"compile": True, "channels_last": False, "data_dir": Path("x y")}])
    run = recipes.config(draw.choice(list(recipes.RECIPES)), data, **values)
    program, *args = shlex.split(recipes.command(run))
    assert program == "bilevel"
    again: Any = parse(args)
    assert again.config == run
    resolved = replace(run, drop_path=run.architecture(2, 3).drop_path, out=Path("runs/x"))
    same: Any = parse(shlex.split(recipes.command(resolved))[1:])
    assert same.config.architecture(2, 3) == run.architecture(2, 3)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {
        name: [(each.step, each.value) for each in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_events_are_what_was_measured_and_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    with events(folder, 0) as written:
        for step in (2, 4, 6):
            written.steps(step, {"loss": float(step)}, 0.5, Pace(10.0, 0.25))
        written.epoch(4, rows_of(1)[0])
    assert scalars(folder)["loss/steps"] == [(2, 2.0), (4, 4.0), (6, 6.0)]
    with events(folder, 4) as again:  # from the checkpoint of the epoch
        again.steps(6, {"loss": 9.0}, 0.5, Pace(10.0, 0.25))
    found = scalars(folder)
    assert found["loss/steps"] == [(2, 2.0), (4, 4.0), (6, 9.0)]
    assert found["loss/train"] == [(4, 1.0)]
    assert found["accuracy/test"] == [(4, 0.5)]
    assert found["loading"] == [(2, 0.25), (4, 0.25), (6, 0.25)]
    with events(tmp_path / "other", 0, writes=False) as none:
        assert none is None
    assert not (tmp_path / "other").exists()


def test_a_run_leaves_its_page_and_its_events(trained: Any) -> None:
    text = (trained.folder / "report.html").read_text(encoding="utf-8")
    Reader(text)
    assert f"<b>{trained.test['accuracy']:.4f}</b>test accuracy" in text
    assert "<mark>recipe: 100</mark>" in text
    found = scalars(trained.folder / "tensorboard")
    assert [step for step, _ in found["accuracy/test"]] == [4, 8, 12]
    assert found["accuracy/test"][-1][1] == pytest.approx(trained.test["accuracy"])


def test_a_run_is_loaded_to_be_used(trained: Any, stripes: Path) -> None:
    model, config, transform, classes = load(trained.folder)
    assert not model.training
    assert (config.image_size, classes) == (32, ["across", "down"])
    path = stripes / "down" / "3.png"
    with Image.open(path) as image:
        assert torch.equal(transform(image), transform(path))
    with torch.inference_mode():
        assert model(transform(str(path))[None]).shape == (1, 2)
