"""``bilevel visualize``: the picture and the page are of the image, the token and the model that
were named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bilevel import visual
from bilevel.cli import main
from bilevel.models import BiFormer
from bilevel.models.config import MODELS
from bilevel.visual import images, sample


def page_data(path: Path) -> dict[str, Any]:
    """What a page shows."""
    [data] = re.findall(r'id="data">(.*?)</script>', path.read_text("utf-8"))
    return dict(json.loads(data))


def test_digits_need_neither_training_nor_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["visualize", "digits", "--at", "4,2", "--stage", "2", "--block", "-1", "--head", "1"])
    found = sample.load()
    prepared = images.prepare(sample.digit(), 1, found.preprocessing)
    at = prepared.pixel((4, 2))
    seen = visual.attention_map(found.model, torch.from_numpy(prepared.image), at, 2, -1, 1)
    routed = ", ".join(map(str, seen.routed))
    said = capsys.readouterr().out
    assert said.startswith("digits-routes.png: digits: 0 (0.")
    assert f"region {seen.region}, of the token in row 5, column 9, routes to {routed}" in said
    with Image.open("digits-routes.png") as picture:
        assert picture.width == 1200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the parameters of a micro model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("visualize") / "micro.safetensors"
    save_file(BiFormer(MODELS["biformer_micro"]).state_dict(), path)
    return path


def test_a_page_of_a_checkpoint_and_an_image_that_is_not_square(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    image, out, html = (tmp_path / name for name in ("a photo.png", "x.svg", "x.html"))
    Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(image)
    named = ["visualize", str(checkpoint), str(image), "--size", "96", "--at=80,50"]
    main([*named, "--html", str(html)])
    assert capsys.readouterr().out == f"{html}\n"
    assert not list(tmp_path.glob("*.svg"))
    data = page_data(html)
    assert data["size"] == [96, 144]
    assert data["start"] == {"stage": 3, "block": 1, "x": 128, "y": 80}  # the middle of the pixel
    assert [len(stage) for stage in data["stages"]] == [1, 1, 2, 1]
    main([*named, "--stage", "4", "--out", str(out)])
    said = capsys.readouterr().out
    assert "a photo: class " in said
    assert "the token in row 2, column 4 attends to all 15 tokens" in said
    assert "</svg>" in out.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digits", "--at", "4x2"], "expected --at as two whole numbers with a comma, as 120,80"),
        (["digits", "--at", "4,2,1"], "expected --at as two whole numbers with a comma, as 120,80"),
        (["digits", "--at", "8,0"], r"expected at[0] to be an integer from 0 to 7, the pixels of"),
        (["digits", "--stage", "5"], "expected stage to be an integer from 1 to 4"),
        (["digits", "--head", "9"], "expected head to be an integer from 0 to 3, of 4 heads"),
        (["digits", "--size", "0"], "expected size to be an integer of at least 32, got 0"),
        (["digits", "--out", "x.doc"], "expected x.doc to end in one of"),
        (["digits", "no.png"], "cannot read the image no.png"),
        (["./digits"], "expected a checkpoint file, found none at digits"),
        (["/no/such/run"], "expected a checkpoint file, found none at /no/such/run"),
    ],
)
def test_a_mistake_is_one_line(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["visualize", *args])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_sample_needs_an_image(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["visualize", str(checkpoint)])
    assert f"expected an image file after {checkpoint}" in capsys.readouterr().err
