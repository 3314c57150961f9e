"""The table of recipes in the documentation is the table that runs are made of."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from bilevel.train.config import TrainConfig
from bilevel.train.recipes import RECIPES, UNMARKED, config

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
SHOWN = ("basic", "imagenet", "token-labels")


def test_the_documented_values_are_those_of_the_recipes() -> None:
    runs = [config(name, "photos", model="biformer_small", device="cuda") for name in SHOWN]
    names = [field.name for field in fields(TrainConfig) if field.name not in UNMARKED]
    expected = {}
    for name in names:
        values = [getattr(run, name) for run in runs]
        if name == "drop_path":
            values = [run.architecture(2, 3).drop_path for run in runs]
        if len(set(values)) > 1:
            expected[name] = [format(x, "g") if isinstance(x, float) else str(x) for x in values]
    table = PAGE.read_text(encoding="utf-8").partition("| option | `basic`")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {row[0].strip("`"): row[1:] for row in rows} == expected


def test_every_recipe_is_named() -> None:
    named = set(re.findall(r"`--recipe ([a-z-]+)`", PAGE.read_text(encoding="utf-8")))
    assert named == set(RECIPES)
