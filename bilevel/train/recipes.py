"""Recipes: what a run is trained with unless told otherwise, and where a run differs from that.

One table, from which the documentation's is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from bilevel.arguments import choice
from bilevel.train.config import RecipeName, TrainConfig

_IMAGENET: Mapping[str, Any] = {
    "model": "biformer_small",
    "epochs": 300,
    "batch_size": 1024,
    "min_lr": 1e-5,
    "warmup_lr": 1e-6,
    "model_ema_decay": 0.99996,
    "aa": "rand-m9-mstd0.5-inc1",
    "reprob": 0.25,
    "aug_repeats": 3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "channels_last": True,
    "workers": 8,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # For images of your own, few or many: the defaults of TrainConfig.
    "basic": {},
    "digits": {
        "model": "biformer_micro",
        "image_size": 64,
        "epochs": 15,
        "lr": 2e-3,
        "warmup_epochs": 2,
        "hflip": 0.0,
        "workers": 0,
    },
    "digit-scenes": {
        "task": "segment",
        "model": "biformer_micro",
        "image_size": 128,
        "epochs": 6,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup_epochs": 0.4,
        "clip_grad": 1.0,
        "hflip": 0.0,
        "workers": 0,
    },
    "fashion-mnist": {
        "model": "biformer_micro",
        "image_size": 56,
        "epochs": 3,
        "lr": 2e-3,
        "warmup_epochs": 0.3,
        "workers": 0,
    },
    # The options of BiFormer's published training on ImageNet.
    "imagenet": _IMAGENET,
    # BiFormer's own was never published. These are UniFormer's, from whose trainer it derives.
    "token-labels": {
        **_IMAGENET,
        "epochs": 310,
        "model_ema_decay": 0.99992,
        "train_interpolation": "random",
        "aug_repeats": 1,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
}
"""From the name of a recipe to its values; what a recipe does not say, TrainConfig does."""

PER_IMAGE: Mapping[str, float] = {"imagenet": 5e-4 / 512, "token-labels": 1.6e-3 / 1024}
"""Recipes whose learning rate grows with the batch: how much of it for each of its images."""

PER_MODEL: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "token-labels": {"biformer_small": {"drop_path": 0.1}, "biformer_base": {"drop_path": 0.3}}
}
"""What recipes say of single models. The drop path of others is their own."""

UNMARKED = (
    *("data", "recipe", "model", "task", "head", "seed", "out", "device", "workers"),
    "label_maps",
    *("compile", "checkpoint_blocks", "channels_last", "data_dir", "dataset_download"),
    *("shard", "save_minutes"),
)
"""Fields that say what is trained, where, or how it is computed: no recipe is left by them."""


def recipe_of(data: str) -> RecipeName:
    """The recipe for data of a name, unless another one is asked for."""
    named: Mapping[str, RecipeName] = {
        "digits": "digits",
        "digit-scenes": "digit-scenes",
        "fashion-mnist": "fashion-mnist",
    }
    return named.get(data, "basic")


def config(recipe: str, data: str, **values: Any) -> TrainConfig:
    """A run by a recipe, on data of a name, but for the values that are given.

    >>> config("imagenet", "path/to/imagenet", batch_size=256, device="cuda").lr
    0.00025

    Raises
    ------
    ArgumentError
        For a recipe that does not exist, and for values that TrainConfig refuses.
    """
    choice("recipe", recipe, get_args(RecipeName))
    said = {**RECIPES[recipe], **values}
    model = said.get("model", TrainConfig.model)
    said = {**RECIPES[recipe], **PER_MODEL.get(recipe, {}).get(model, {}), **values}
    if recipe in PER_IMAGE:
        said.setdefault("lr", PER_IMAGE[recipe] * said["batch_size"])
        on_cuda = str(said.get("device", TrainConfig.device)).startswith("cuda")
        said.setdefault("amp", "bf16" if on_cuda else None)
    return TrainConfig(data=data, **{**said, "recipe": recipe})


def resolved(said: TrainConfig) -> TrainConfig:
    """What a run has by its recipe: its own model, batch size and device are what the values that
    depend on them are for."""
    given = {name: getattr(said, name) for name in ("model", "batch_size", "device")}
    return config(said.recipe or recipe_of(said.data), said.data, **given)


def deviations(run: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Where a run leaves its recipe: the recipe's value and its own, by the name of the field."""
    name = run.recipe or recipe_of(run.data)
    plain = resolved(run)
    own = config(name, run.data)
    pairs = {
        field.name: (
            getattr(own if field.name == "batch_size" else plain, field.name),
            getattr(run, field.name),
        )
        for field in fields(run)
        if field.name not in UNMARKED
    }
    models_own = plain.architecture(1, 1).drop_path
    pairs["drop_path"] = (models_own, run.architecture(1, 1).drop_path)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def command(run: TrainConfig) -> str:
    """The command that trains such a run: what leaves the recipe is an option of it."""
    name = run.recipe or recipe_of(run.data)
    plain = resolved(run)
    options = [f"--recipe={name}"] if name != recipe_of(run.data) else []
    for field in fields(run):
        value = getattr(run, field.name)
        given = field.name in ("model", "batch_size", "device")  # the rest depends on them
        same = getattr(config(name, run.data) if given else plain, field.name) == value
        if field.name == "drop_path":
            same = plain.architecture(1, 1).drop_path == run.architecture(1, 1).drop_path
        if field.name not in ("data", "recipe", "out", "task") and not same:
            option = field.name.replace("_", "-")
            flag = f"--{option}" if value is True else f"--no-{option}"
            options.append(flag if isinstance(value, bool) else f"--{option}={value}")
    return shlex.join(["bilevel", "train", run.data, *options])


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
