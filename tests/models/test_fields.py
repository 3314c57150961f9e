"""Every field of a model's config arrives: another value changes what it should, and nothing
else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch

from bilevel import models
from bilevel.models import BiFormer, BiFormerConfig

USUAL = BiFormerConfig(
    depths=(1, 1, 2, 1), embed_dims=(16, 16, 32, 64), head_dim=8, regions=3, num_classes=5
)
ALL = {"shapes", "logits", "arrays", "training"}
NUMBERS = ALL - {"shapes"}

ARRIVES: dict[str, tuple[Any, set[str]]] = {
    "depths": ((1, 2, 2, 1), ALL),
    "embed_dims": ((16, 32, 32, 64), ALL),
    "mlp_ratio": (4, ALL),
    "head_dim": (16, NUMBERS),
    "topk": ((1, 3, 4, None), NUMBERS),
    "regions": (2, NUMBERS),
    "layout": ("stl", ALL),
    "variant": ("nchw", NUMBERS),
    "padding": ("official", NUMBERS),
    "num_classes": (4, ALL),
    "in_chans": (1, ALL),
    "drop_path": (0.9, {"training"}),
    "token_labels": (True, ALL),
}
"""Another value of each field, and what it changes."""


def seen(config: BiFormerConfig) -> dict[str, Any]:
    """The parameters of a model, and what it makes of images with them: parameters of one name and
    shape have the same numbers in all models."""
    shapes = models.parameter_shapes(config)
    params = {name: _drawn(name, shape) for name, shape in shapes.items()}
    # Of maps that regions do not divide.
    images = np.random.default_rng(0).random((2, config.in_chans, 76, 60))
    model = BiFormer(config).double()
    model.load_state_dict({name: torch.from_numpy(x) for name, x in params.items()})
    torch.manual_seed(0)
    with torch.no_grad():
        training = model.train()(torch.from_numpy(images))
        model.load_state_dict({name: torch.from_numpy(x) for name, x in params.items()})
        logits = model.eval()(torch.from_numpy(images))
    arrays = models.apply(config, params, images)
    results = {"logits": logits.numpy(), "arrays": arrays, "training": training.numpy()}
    return {"shapes": shapes} | {name: x.round(9).tolist() for name, x in results.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same for the same name and shape."""
    x = np.random.default_rng(crc32(name.encode())).uniform(-0.3, 0.7, shape)
    return x**2 if name.endswith("running_var") else np.asarray(x)


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return seen(USUAL)


@pytest.mark.parametrize("field", ARRIVES)
def test_a_field_changes_what_it_should_and_nothing_else(field: str, usual: dict[str, Any]) -> None:
    value, expected = ARRIVES[field]
    other = seen(replace(USUAL, **{field: value}))
    assert {name for name in ALL if other[name] != usual[name]} == expected


def test_no_field_is_left_out() -> None:
    assert {field.name for field in fields(BiFormerConfig)} == set(ARRIVES)
