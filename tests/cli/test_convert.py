"""`bilevel convert`: between all styles and back, with a word on every key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bilevel.cli import main
from bilevel.models import conversion, to_official
from bilevel.models.backbone import Backbone
from bilevel.models.config import MODELS, BackboneConfig, BiFormerConfig
from bilevel.models.model import BiFormer

CONFIGS = {
    "biformer_micro": replace(MODELS["biformer_micro"], num_classes=5, in_chans=1),
    "biformer_stl_nchw": replace(MODELS["biformer_stl_nchw"], num_classes=2),
}


def params_of(config: BiFormerConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(BiFormer(config).state_dict())


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], x) for name, x in wanted.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trips(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS[name]
    params = params_of(config)
    start = tmp_path / "start.pth"
    torch.save({"model": to_official(params, config), "epoch": 3}, start)
    files = ["ours.safetensors", "official.pt", "repository", "back.pth"]
    source = start
    for file in files:
        main(["convert", str(source), str(tmp_path / file), "--model", name])
        said = capsys.readouterr().out.splitlines()
        assert len(said) == len(params) + 1
        assert said[-1].endswith(" 0 made, 0 left out")
        source = tmp_path / file
        source = source / "model.safetensors" if source.is_dir() else source
    assert_same(load_file(tmp_path / "ours.safetensors"), params)
    for file in ("official.pt", "back.pth"):
        assert_same(torch.load(tmp_path / file)["model"], to_official(params, config))
    assert_same(conversion.read(tmp_path / "back.pth").params, params)


def test_every_key_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a segmenter's file to ours and back: without head and norm, with extra norms."""
    config = CONFIGS["biformer_micro"]
    official = to_official(params_of(config), config)
    body = {f"backbone.{k}": x for k, x in official.items() if not k.startswith(("head", "norm."))}
    extra = {"backbone.extra_norms.0.weight": torch.ones(32), "decode_head.w": torch.ones(2, 2)}
    torch.save({"state_dict": body | extra, "meta": {"iter": 1}}, tmp_path / "mm.pth")
    main(["convert", str(tmp_path / "mm.pth"), str(tmp_path / "ours.safetensors")])
    said = capsys.readouterr().out.splitlines()
    prefix = "state_dict.backbone."
    assert f"moved {prefix}downsample_layers.0.0.weight -> downsamples.0.conv1.weight" in said
    for key in extra:
        assert f"left out state_dict.{key}" in said
    assert len(said) == len(body) + len(extra) + 1
    args = [str(tmp_path / "ours.safetensors"), str(tmp_path / "again.pth"), "--style", "mm"]
    main(["convert", *args])
    assert_same(torch.load(tmp_path / "again.pth")["state_dict"], body)


def test_norms_of_a_backbone_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole file of dense prediction, to ours and back."""
    config = BackboneConfig.of(MODELS["biformer_micro"])
    torch.manual_seed(0)
    official = to_official(Backbone(config).state_dict(), config)
    given = {f"backbone.{k}": x for k, x in official.items()}
    torch.save({"state_dict": given}, tmp_path / "mm.pth")
    main(["convert", str(tmp_path / "mm.pth"), str(tmp_path / "ours.safetensors")])
    args = [str(tmp_path / "ours.safetensors"), str(tmp_path / "again.pth"), "--style", "mm"]
    main(["convert", *args])
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 made, 0 left out")
    assert_same(torch.load(tmp_path / "again.pth")["state_dict"], given)


def test_counts_that_are_not_there_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS["biformer_micro"]
    official = to_official(params_of(config), config)
    old = {k: x for k, x in official.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    main(["convert", str(tmp_path / "old.pth"), str(tmp_path / "ours.safetensors")])
    assert f" {len(official) - len(old)} made," in capsys.readouterr().out.splitlines()[-1]


def tensors(path: Path) -> None:
    torch.save({"a": torch.ones(3)}, path)


def dense(path: Path) -> None:
    config = CONFIGS["biformer_micro"]
    official = to_official(params_of(config), config)
    torch.save({k: x for k, x in official.items() if not k.startswith(("norm.", "head."))}, path)


@pytest.mark.parametrize(
    ("write", "out", "message"),
    [
        (lambda path: None, "out.pth", "expected a checkpoint file, found none at"),
        (tensors, "out.pth", "expected the official parameters of a BiFormer, found none of them"),
        (tensors, "out.onnx", "to end in .pth, .pt, .safetensors or to have no suffix"),
        (dense, "out", "of the whole BiFormerConfig"),
    ],
)
def test_wrong_uses_are_one_line(
    write: Callable[[Path], None],
    out: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "in.pth")
    with pytest.raises(SystemExit) as end:
        main(["convert", str(tmp_path / "in.pth"), str(tmp_path / out)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / out).exists()
