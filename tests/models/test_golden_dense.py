"""Parity of the backbone with the official ones for dense prediction, in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from bilevel import models
from bilevel.models import Backbone, BackboneConfig, biformer, from_official, parameter_shapes
from tests.golden.numbers import CONFIGS, DENSE_KEYS, dense_cases, dense_state_dict, images

RTOL = 1e-9
REGIONS = {"detection": 16, "segmentation": 8}
CASES = dense_cases()

Maps = tuple[list[Any], list[Any]]
"""The outputs of stages, and the normalised maps."""


def config_of(task: str) -> BackboneConfig:
    whole = replace(CONFIGS["micro"], regions=REGIONS[task], padding="official")
    return BackboneConfig.of(whole)


@cache
def parameters() -> dict[str, Any]:
    return from_official(dense_state_dict("micro"), config_of("detection"))


def by_torch(task: str, x: np.ndarray, training: bool) -> Maps:
    backbone = Backbone(config_of(task), norm_eval=task == "detection").double()
    backbone.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parameters().items()})
    backbone.train(training)
    with torch.no_grad():
        found = backbone(torch.from_numpy(x))
        outputs = list(biformer.stages(backbone, torch.from_numpy(x)))
    return [y.numpy() for y in outputs], [y.numpy() for y in found]


def by_numpy(task: str, x: np.ndarray, training: bool) -> Maps:
    batch_stats = training and task != "detection"  # whose batch normalisation stays as it was
    model = models.bind(config_of(task), parameters(), batch_stats=batch_stats)
    return list(biformer.stages(model, x)), list(model(x))


def close(found: Any, expected: Any, rtol: float = RTOL) -> None:
    """Equal to ``rtol`` of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


def compare(found: np.ndarray, name: str, kind: str, expected: dict[str, np.ndarray]) -> None:
    wanted = expected[f"{name}/{kind}"]
    if kind == "shape":
        assert found.shape == tuple(wanted)
    elif kind == "full":
        close(found, wanted)
    elif kind == "values":
        close(found.ravel()[expected[f"{name}/positions"]], wanted)
    elif kind == "mean_std":
        close([found.mean(), found.std()], wanted)
    elif kind == "channel_mean":
        close(found.mean((0, 2, 3)), wanted)
    elif kind == "token_mean":
        close(found.mean((0, 1)), wanted, 1e-6)  # kept in float32
    else:
        assert kind == "positions", f"{name}/{kind} is nothing known"


@pytest.mark.parametrize("run", [by_torch, by_numpy])
@pytest.mark.parametrize("case", CASES)
def test_golden_maps_are_the_official_ones(case: str, run: Callable[..., Maps]) -> None:
    file, name = case.split("/")
    (task,) = (each for each in REGIONS if each in file)
    expected = CASES[case]
    height, width = map(int, re.findall(r"(\d+)x(\d+)", name)[0])
    whole = (x for key, x in expected.items() if key.endswith("/full"))
    batch = len(next(whole, np.zeros(1)))
    outputs, maps = run(task, images(batch, 3, height, width), name.startswith("train"))
    for key in expected:
        what, kind = key.split("/")
        among = maps if what.startswith("level") else outputs
        compare(among[int(what[-1]) - 1], what, kind, expected)


@pytest.mark.parametrize("task", REGIONS)
def test_golden_parameters_give_the_same_maps_in_training_on_torch_and_numpy(task: str) -> None:
    x = images(2, 3, 64, 96)
    evaluated = by_torch(task, x, False)[1]
    trained = by_torch(task, x, True)[1]
    for a, b, c in zip(trained, by_numpy(task, x, True)[1], evaluated, strict=True):
        close(a, b)
        assert np.array_equal(a, c) == (task == "detection")


@pytest.mark.parametrize("name", ["micro", "biformer_small"])
def test_golden_names_are_the_official_ones(name: str) -> None:
    config = BackboneConfig.of(CONFIGS[name])
    given = dense_state_dict(name)
    ours = from_official(given, config)
    assert {k: v.shape for k, v in ours.items()} == parameter_shapes(config)
    back = models.to_official(ours, config)
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[key], x) for key, x in given.items())
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in Backbone(config).state_dict().items()}
    assert list(shapes.items()) == list(parameter_shapes(config).items())


@pytest.mark.parametrize("name", DENSE_KEYS["params"])
def test_golden_counts_of_parameters(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(CONFIGS[name])
    assert sum(p.numel() for p in backbone.parameters()) == DENSE_KEYS["params"][name]
