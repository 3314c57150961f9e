"""Recipes: what a run is trained with unless told otherwise, and where a run differs from that.

One table, from which the documentation's is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from bilevel.arguments import choice
from bilevel.train.config import RecipeName, TrainConfig

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # For images of your own, few or many: the defaults of TrainConfig.
    "basic": {},
    "digits": {
        "model": "biformer_micro",
        "image_size": 64,
        "epochs": 15,
        "lr": 2e-3,
        "warmup_epochs": 2,
        "workers": 0,
    },
}
"""From the name of a recipe to its values; what a recipe does not say, TrainConfig does."""

UNMARKED = (
    *("data", "recipe", "model", "task", "seed", "out", "device", "workers"),
    *("compile", "checkpoint_blocks", "channels_last"),
)
"""Fields that say what is trained, where, or how it is computed: no recipe is left by them."""


def recipe_of(data: str) -> RecipeName:
    """The recipe for data of a name, unless another one is asked for."""
    return "digits" if data == "digits" else "basic"


def config(recipe: str, data: str, **values: Any) -> TrainConfig:
    """A run by a recipe, on data of a name, but for the values that are given.

    >>> config("digits", "digits", epochs=3).lr
    0.002

    Raises
    ------
    ArgumentError
        For a recipe that does not exist, and for values that TrainConfig refuses.
    """
    choice("recipe", recipe, get_args(RecipeName))
    return TrainConfig(data=data, **{**RECIPES[recipe], **values, "recipe": recipe})


def deviations(run: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Where a run leaves its recipe: the recipe's value and its own, by the name of the field."""
    plain = config(run.recipe or recipe_of(run.data), run.data, model=run.model)
    pairs = {
        field.name: (getattr(plain, field.name), getattr(run, field.name))
        for field in fields(run)
        if field.name not in UNMARKED
    }
    models_own = plain.architecture(1, 1).drop_path
    pairs["drop_path"] = (models_own, run.architecture(1, 1).drop_path)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def in_words(run: TrainConfig) -> list[str]:
    """The recipe of a run, where the run leaves it, and all values: lines to show."""
    left = [f"{name} {own!r} for {its!r}" for name, (its, own) in deviations(run).items()]
    values = {field.name: getattr(run, field.name) for field in fields(run)}
    values["drop_path"] = run.architecture(1, 1).drop_path
    shown = [f"{name} {value}" for name, value in values.items() if name not in UNMARKED]
    name = run.recipe or recipe_of(run.data)
    return [f"recipe {name}, with {', '.join(left) or 'nothing changed'}", ", ".join(shown)]


DIGITS = config("digits", "digits")
"""What `bilevel train digits` does unless told otherwise."""
