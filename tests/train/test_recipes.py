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
    "hflip": 0.25,
    "train_interpolation": "bilinear",
    "aa": "rand-m5-n1",
    "reprob": 0.75,
    "remode": "const",
    "aug_repeats": 2,
    "mixup": 0.5,
    "cutmix": 0.6,
    "mixup_prob": 0.7,
    "mixup_switch_prob": 0.2,
    "dense_weight": 0.25,
    "label_axes": "official",
    "label_smoothing": 0.3,
    "drop_path": 0.35,
    "amp": "fp16",
    "sync_bn": True,
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
    said = {name: "" if value is True else f"={value}" for name, value in values.items()}
    given = [f"--{name.replace('_', '-')}{value}" for name, value in said.items()]
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


def test_the_learning_rate_follows_the_global_batch() -> None:
    rates = {
        size: recipes.config("imagenet", "x", batch_size=size).lr for size in (2, 512, 1024, 4096)
    }
    assert rates == pytest.approx({2: 5e-4 / 256, 512: 5e-4, 1024: 1e-3, 4096: 4e-3}, rel=1e-12)
    assert recipes.config("imagenet", "x", batch_size=512, lr=0.1).lr == 0.1
    assert recipes.config("token-labels", "x").lr == pytest.approx(1.6e-3)
    assert recipes.config("basic", "x", batch_size=1024).lr == TrainConfig.lr


def test_half_precision_is_for_gpus() -> None:
    assert recipes.config("imagenet", "x").amp is None
    assert recipes.config("imagenet", "x", device="cuda").amp == "bf16"
    assert recipes.config("imagenet", "x", device="cuda", amp="fp16").amp == "fp16"
    assert recipes.config("basic", "x", device="cuda").amp is None


def test_the_drop_path_is_that_of_the_model() -> None:
    expected = {"biformer_tiny": 0.1, "biformer_small": 0.15, "biformer_base": 0.4}
    labelled = {"biformer_tiny": 0.1, "biformer_small": 0.1, "biformer_base": 0.3}
    for recipe, rates in (("imagenet", expected), ("token-labels", labelled)):
        for model, rate in rates.items():
            run = recipes.config(recipe, "x", model=model)
            assert run.architecture(2, 3).drop_path == rate
            assert recipes.deviations(run) == {}


def test_a_recipe_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"expected recipe to be one of 'basic', .*'imagnet'"):
        recipes.config("imagnet", "x")


def test_a_drop_path_that_was_resolved_is_none_of_ones_own() -> None:
    run = recipes.config("imagenet", "x", model="biformer_base", drop_path=0.4, out=Path("runs/x"))
    assert recipes.deviations(run) == {}
