"""Recipes: one table, resolved by model and batch; what leaves it is marked."""

from __future__ import annotations

import os
import random
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from bilevel import ArgumentError
from bilevel.cli.commands import parse
from bilevel.models.config import MODELS
from bilevel.train import recipes
from bilevel.train.config import RecipeName, TrainConfig

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))

CHANGED: dict[str, Any] = {
    "image_size": 96,
    "epochs": 7,
    "batch_size": 32,
    "grad_accum_steps": 4,
    "opt": "lamb",
    "opt_eps": 1e-6,
    "momentum": 0.8,
    "lr": 0.123,
    "min_lr": 0.002,
    "warmup_lr": 0.003,
    "warmup_epochs": 4.5,
    "weight_decay": 0.2,
    "layer_decay": 0.75,
    "clip_grad": 5.0,
    "model_ema_decay": 0.99,
    "aug_repeats": 2,
    "label_smoothing": 0.3,
    "drop_path": 0.35,
    "amp": "fp16",
}
"""Another value than that of any recipe, for each field by which a run leaves its recipe."""


def test_every_field_is_a_matter_of_recipes_or_is_not() -> None:
    assert {field.name for field in fields(TrainConfig)} == {*CHANGED, *recipes.UNMARKED}
    assert set(recipes.RECIPES) == set(get_args(RecipeName))


@pytest.mark.parametrize("seed", range(TRIALS))
def test_what_leaves_a_recipe_is_marked_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    recipe = draw.choice(list(recipes.RECIPES))
    changed = {name: CHANGED[name] for name in draw.sample(list(CHANGED), draw.randint(0, 5))}
    free = {"model": draw.choice(list(MODELS)), "device": draw.choice(["cpu", "cuda:1"]), "seed": 9}
    run = recipes.config(recipe, "somewhere", **free, **changed)
    marked = recipes.deviations(run)
    assert set(marked) == set(changed)
    assert {name: own for name, (_, own) in marked.items()} == changed


@pytest.mark.parametrize("seed", range(TRIALS))
def test_the_command_line_resolves_as_python_does(seed: int) -> None:
    draw = random.Random(seed)
    recipe = draw.choice(list(recipes.RECIPES))
    names = draw.sample(list(CHANGED), draw.randint(0, 4))
    values = {name: CHANGED[name] for name in names}
    values["model"] = draw.choice(list(MODELS))
    values["device"] = draw.choice(["cpu", "cuda"])
    given = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    args = ["somewhere", "--recipe", recipe, *given]
    draw.shuffle(given)
    command: Any = parse(["train", *args])
    assert command.config == recipes.config(recipe, "somewhere", **values)


def test_the_recipe_is_that_of_the_data_unless_another_is_asked_for() -> None:
    for data, recipe in (("digits", "digits"), ("./digits", "basic"), ("photos", "basic")):
        command: Any = parse(["train", data])
        assert command.config == recipes.config(recipe, data)
    other: Any = parse(["train", "digits", "--recipe", "basic"])
    assert other.config == recipes.config("basic", "digits")
    assert recipes.config("digits", "digits") == recipes.DIGITS


def test_a_recipe_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"expected recipe to be one of 'basic', .*'imagnet'"):
        recipes.config("imagnet", "x")


def test_a_drop_path_that_was_resolved_is_none_of_ones_own() -> None:
    run = recipes.config("basic", "x", model="biformer_base", drop_path=0.4, out=Path("runs/x"))
    assert recipes.deviations(run) == {}
