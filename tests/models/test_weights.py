"""Official checkpoints in all the forms in which they are found."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bilevel import WeightsError, models
from tests.golden.numbers import KEYS


def official(name: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        key: rng.random(shape, np.float32) if shape else np.array(7)  # how often a norm was used
        for key, shape in KEYS[name].items()
    }


def as_tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_there_and_back_again(name: str) -> None:
    given = official(name)
    config = models.PUBLISHED[name]
    ours = models.from_official(given, config)
    back = models.to_official(ours, config)
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[key], given[key]) for key in given)


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_the_model_is_recognised_without_a_config(name: str) -> None:
    ours = models.from_official(official(name))
    shapes = {key: value.shape for key, value in ours.items()}
    assert shapes == models.parameter_shapes(models.PUBLISHED[name])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: {"model": d},
        lambda d: {"state_dict": d, "meta": {"epoch": 3}},
        lambda d: {"model": d, "args": argparse.Namespace(lr=0.1), "epoch": 299},
        lambda d: {f"module.{k}": v for k, v in d.items()},
        lambda d: {"model": {f"module.backbone.{k}": v for k, v in d.items()}},
        lambda d: {f"backbone.{k}": v for k, v in d.items()},
    ],
)
def test_wrappers_and_prefixes_are_taken_off(wrap: Callable[[Any], Any]) -> None:
    given = official("biformer_tiny")
    found, plain = models.from_official(wrap(given)), models.from_official(given)
    assert found.keys() == plain.keys()
    assert all(found[key] is plain[key] or np.array_equal(found[key], plain[key]) for key in plain)


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_without_a_config_head_and_input_are_those_of_the_checkpoint(name: str) -> None:
    given = official(name)
    given["head.weight"], given["head.bias"] = given["head.weight"][:10], given["head.bias"][:10]
    stem = "downsample_layers.0.0.weight"
    given[stem] = given[stem][:, :1]
    config = replace(models.PUBLISHED[name], num_classes=10, in_chans=1)
    assert shapes(models.from_official(given)) == models.parameter_shapes(config)
    del given["head.weight"], given["head.bias"]
    config = replace(config, num_classes=0)
    assert shapes(models.from_official(given)) == models.parameter_shapes(config)


def shapes(arrays: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def test_a_head_of_another_size_is_left_out_with_a_warning() -> None:
    model = models.biformer_tiny(num_classes=10)
    with pytest.warns(UserWarning, match=r"head\.weight and head\.bias: the checkpoint has 1000"):
        params = models.from_official(as_tensors(official("biformer_tiny")), model.config)
    missing, unexpected = model.load_state_dict(params, strict=False)
    assert missing == ["head.weight", "head.bias"]
    assert unexpected == []


def test_missing_and_left_over_parameters_are_listed() -> None:
    given = official("biformer_tiny")
    given["extra_norms.0.weight"] = given.pop("norm.weight")
    with pytest.raises(WeightsError) as error:
        models.from_official(given)
    assert "missing norm.weight (512,)" in str(error.value)
    assert "left over extra_norms.0.weight" in str(error.value)


def test_a_parameter_of_another_shape_is_named() -> None:
    given = official("biformer_small")
    given["stages.0.0.norm1.weight"] = np.zeros(65, np.float32)
    with pytest.raises(WeightsError, match=r"stages\.0\.0\.norm1\.weight is \(65,\), expected \(6"):
        models.from_official(given, models.PUBLISHED["biformer_small"])


def test_what_is_no_state_dict_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"expected a mapping of names to arrays, got .*list"):
        models.from_official([1, 2])  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="something else at epoch"):
        models.from_official({"epoch": 3})


def test_load_official_reads_a_released_file(tmp_path: Path) -> None:
    given = as_tensors(official("biformer_tiny"))
    path = tmp_path / "biformer_tiny_best.pth"
    torch.save({"model": given, "args": argparse.Namespace(model="biformer_tiny")}, path)
    model = models.biformer_tiny()
    model.load_state_dict(models.load_official(path, model.config))
    assert torch.equal(model.head.weight, given["head.weight"])
    save_file(given, tmp_path / "tiny.safetensors")
    again = models.load_official(tmp_path / "tiny.safetensors")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.items())
