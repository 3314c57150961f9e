"""`bilevel export`: files of every format compute what the model does, at other sizes too."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from bilevel.cli import main
from bilevel.models.config import MODELS
from bilevel.models.model import BiFormer
from bilevel.timm import save

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
"""OpenVINO is not there for these tests; `nox -s ecosystem` has it."""


@pytest.fixture(scope="module")
def model() -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(replace(MODELS["biformer_micro"], num_classes=5, in_chans=1)).eval()


@pytest.fixture(scope="module")
def source(model: BiFormer, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(model, tmp_path_factory.mktemp("export") / "model"))


def onnx(file: Path, x: Tensor) -> Tensor:
    return torch.from_numpy(onnxruntime.InferenceSession(file).run(None, {"images": x.numpy()})[0])


@pytest.mark.parametrize("target", FILES)
def test_every_format(
    target: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", source, str(tmp_path / FILES[target]), "--format", target])
    said = capsys.readouterr().out.splitlines()[-1]
    # A single image is among them: the order of its memory may be another.
    sizes = "2 x 128 x 160, 1 x 128 x 128, 3 x 153 x 198"
    found = re.match(rf"largest difference (\S+) on random images of {sizes}$", said)
    assert found is not None
    assert float(found[1]) < 1e-5


def test_int8_is_near_and_smaller(model: BiFormer, source: str, tmp_path: Path) -> None:
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    main(["export", source, str(whole)])
    main(["export", source, str(small), "--int8"])
    x = torch.randn(2, 1, 200, 140)
    with torch.no_grad():
        logits = model(x)
    assert (onnx(whole, x) - logits).abs().max() < 1e-5
    assert 0 < (onnx(small, x) - logits).abs().max() < 0.2 * logits.std()
    assert small.stat().st_size < 0.7 * whole.stat().st_size


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["model.onnx", "--opset", "9"], "expected an opset from 17 to 21"),
        (["model.pt2"], "expected a file .onnx for onnx, got"),
        (["model.pt2", "--format", "torch", "--int8"], "expected int8 for onnx alone"),
        (["model.tflite", "--format", "tflite"], "invalid choice 'tflite'"),
    ],
)
def test_wrong_uses_are_one_line(
    args: list[str], message: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["export", source, str(tmp_path / args[0]), *args[1:]])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())
