"""Weights into models that timm creates: official files, ours, and those of other models."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import bilevel.timm  # noqa: F401 # registers the models
from bilevel import ArgumentError, WeightsError
from bilevel.models import BiFormer, to_official
from bilevel.models.config import MODELS

NAMES = ("biformer_tiny", "biformer_stl", "biformer_stl_nchw")  # a family of official names each
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(name: str, **changes: Any) -> tuple[BiFormer, dict[str, Tensor]]:
    """A model and its parameters by their official names."""
    torch.manual_seed(1)
    model = BiFormer(replace(MODELS[name], **changes)).eval()
    return model, to_official(model.state_dict(), model.config)


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.eval()(X)


def write(path: Path, official: dict[str, Tensor], how: str) -> Path:
    if how == "safetensors":
        save_file(official, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    if how == "released":
        torch.save({"model": official, "args": Namespace(lr=1e-3)}, path)
    elif how == "wrapped":
        torch.save({"state_dict": {f"module.{k}": v for k, v in official.items()}}, path)
    else:
        torch.save(official, path)
    return path


@pytest.mark.parametrize("how", ["plain", "released", "wrapped", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_an_official_checkpoint(name: str, how: str, tmp_path: Path) -> None:
    model, official = trained(name)
    path = write(tmp_path / "official.pth", official, how)
    made = timm.create_model(name, checkpoint_path=str(path))
    assert torch.equal(logits(made), logits(model))


def test_our_own_checkpoint(tmp_path: Path) -> None:
    model, _ = trained("biformer_micro")
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    made = timm.create_model("biformer_micro", checkpoint_path=str(tmp_path / "ours.pth"))
    assert torch.equal(logits(made), logits(model))


def pretrained(path: Path, **options: Any) -> Any:
    return timm.create_model(
        "biformer_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
    )


def test_pretrained_from_an_official_file(tmp_path: Path) -> None:
    model, official = trained("biformer_tiny")
    path = write(tmp_path / "official.pth", official, "released")
    assert torch.equal(logits(pretrained(path)), logits(model))
    other_head = pretrained(path, num_classes=7)
    assert torch.equal(other_head.stages[0][0].mlp.fc1.weight, model.stages[0][0].mlp.fc1.weight)
    assert other_head.head.out_features == 7
    grey = pretrained(path, in_chans=1)
    summed = model.get_parameter("downsamples.0.conv1.weight").sum(1, keepdim=True)
    torch.testing.assert_close(grey.downsamples[0].conv1.weight, summed)
    with torch.inference_mode():
        maps = pretrained(path, features_only=True).eval()(X)
        want = model.forward_intermediates(X, intermediates_only=True)
    assert all(map(torch.equal, maps, want))


def create(**options: Any) -> Callable[[Path], Any]:
    return lambda _: timm.create_model("biformer_tiny", **options)


def with_weights_of(name: str, ours: bool, **options: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        model, official = trained(name)
        torch.save(model.state_dict() if ours else official, folder / "other.pth")
        timm.create_model("biformer_tiny", checkpoint_path=str(folder / "other.pth"), **options)

    return run


def not_strictly(folder: Path) -> None:
    model = timm.create_model("biformer_tiny")
    model.load_state_dict(timm.create_model("resnet18").state_dict(), strict=False)


MISTAKES: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no weights hosted": (
        create(pretrained=True),
        WeightsError,
        "no weights of biformer_tiny are hosted; give an official file as checkpoint_path=",
    ),
    "another official model": (
        with_weights_of("biformer_stl", ours=False),
        WeightsError,
        "expected the 264 parameters of the official BiFormerConfig",
    ),
    "another model": (
        with_weights_of("biformer_small", ours=True),
        WeightsError,
        "expected the 264 parameters of the BiFormerConfig",
    ),
    "of nothing alike": (not_strictly, WeightsError, "expected the 264 parameters"),
    "an image size": (
        create(img_size=256),
        ArgumentError,
        "got img_size; images may have any size",
    ),
    "a misspelt option": (
        create(drop_path=0.1),
        ArgumentError,
        "expected arguments of a BiFormer, depths, .* got drop_path",
    ),
    "an output stride": (
        create(features_only=True, output_stride=16),
        ArgumentError,
        "expected output_stride 32, the only one of a BiFormer, got 16",
    ),
    "a stage that is not there": (
        create(features_only=True, out_indices=(3, 4)),
        ArgumentError,
        "expected indices of 4 stages: an int from 1, or ints from -4 to 3, got",
    ),
    "no pooling before classes": (
        create(global_pool=""),
        ArgumentError,
        "expected global_pool 'avg', or '' with num_classes 0, got '' with 1000",
    ),
    "a region count": (create(regions=0), ArgumentError, "expected regions to be an integer"),
    "an unknown name": (
        lambda _: timm.create_model("biformer_huge"),
        RuntimeError,
        r"Unknown model \(biformer_huge\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_uses_are_one_line(mistake: str, tmp_path: Path) -> None:
    run, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)


def test_a_part_of_a_state_dict_is_taken_where_it_is_not_strict() -> None:
    model, _ = trained("biformer_micro")
    made: Any = timm.create_model("biformer_micro")
    part = {k: v for k, v in model.state_dict().items() if k.startswith("stages.0")}
    missing, unexpected = made.load_state_dict(part, strict=False)
    assert "head.weight" in missing
    assert part.keys().isdisjoint(missing)
    assert unexpected == []
    assert torch.equal(made.stages[0][0].mlp.fc1.weight, model.stages[0][0].mlp.fc1.weight)
