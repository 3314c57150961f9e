"""What arguments mean: in any order the same, with a word for what was nearly right."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from tyro.conf import Positional

from bilevel.cli import main
from bilevel.cli.commands import COMMANDS, parse
from bilevel.errors import InputError
from bilevel.models.config import MODELS
from bilevel.train import recipes
from bilevel.train.config import TrainConfig
from bilevel.train.recipes import DIGITS

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))

DRAWN: dict[str, Callable[[random.Random], Any]] = {
    "recipe": lambda rng: rng.choice(list(recipes.RECIPES)),
    "model": lambda rng: rng.choice(list(MODELS)),
    "grad_accum_steps": lambda rng: rng.randint(1, 8),
    "opt": lambda rng: rng.choice(["sgd", "lamb", "train"]),
    "opt_eps": lambda rng: rng.random() * 1e-5,
    "momentum": lambda rng: rng.random() * 0.9,
    "min_lr": lambda rng: rng.random() * 1e-5,
    "warmup_lr": lambda rng: rng.random() * 1e-5,
    "layer_decay": lambda rng: rng.uniform(0.1, 1),
    "clip_grad": lambda rng: rng.uniform(0.1, 9),
    "model_ema_decay": lambda rng: rng.random() * 0.9,
    "amp": lambda rng: rng.choice(["bf16", "fp16"]),
    "hflip": lambda rng: rng.random(),
    "train_interpolation": lambda rng: rng.choice(["bicubic", "bilinear", "random"]),
    "aa": lambda rng: rng.choice(["rand-m9-mstd0.5-inc1", "original", "train"]),
    "reprob": lambda rng: rng.random(),
    "remode": lambda rng: rng.choice(["pixel", "rand", "const"]),
    "mixup": lambda rng: rng.random(),
    "cutmix": lambda rng: rng.random(),
    "mixup_prob": lambda rng: rng.random(),
    "mixup_switch_prob": lambda rng: rng.random(),
    "channels_last": lambda rng: rng.random() < 0.5,
    "compile": lambda rng: rng.random() < 0.5,
    "checkpoint_blocks": lambda rng: rng.random() < 0.5,
    "sync_bn": lambda rng: rng.random() < 0.5,
    "shard": lambda rng: rng.random() < 0.5,
    "save_minutes": lambda rng: rng.random() * 60,
    "image_size": lambda rng: rng.randint(32, 512),
    "epochs": lambda rng: rng.randint(1, 300),
    "batch_size": lambda rng: rng.randint(2, 256),
    "lr": lambda rng: rng.uniform(1e-5, 1),
    "weight_decay": lambda rng: rng.random(),
    "warmup_epochs": lambda rng: rng.random() * 9,
    "head": lambda rng: rng.choice(["semantic-fpn", "upernet"]),
    "label_maps": lambda rng: Path(rng.choice(["maps.npy", "train"])),
    "dense_weight": lambda rng: rng.random(),
    "label_axes": lambda rng: rng.choice(["corrected", "official"]),
    "label_smoothing": lambda rng: rng.random() * 0.9,
    "drop_path": lambda rng: rng.random() * 0.9,
    "seed": lambda rng: rng.randrange(2**31),
    "aug_repeats": lambda rng: rng.randrange(1, 9),
    "workers": lambda rng: rng.randrange(9),
    "device": lambda rng: rng.choice(["cpu", "cuda", "digits", "train"]),
    "data_dir": lambda rng: Path(rng.choice(["digits", "/usr/share", "train"])),
    "dataset_download": lambda rng: rng.random() < 0.5,
    "out": lambda rng: Path(rng.choice(["digits", "runs/x", "train", "eval"])),
}
"""A value for each option; some are words that mean something elsewhere."""


def options_of(rng: random.Random) -> dict[str, Any]:
    """Some options, with values."""
    return {name: DRAWN[name](rng) for name in rng.sample(list(DRAWN), rng.randint(0, 6))}


def written(name: str, value: Any, rng: random.Random) -> list[str]:
    """An option in one of the ways to write it."""
    option = f"--{name}" if rng.random() < 0.5 else f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-")]
    return [f"{option}={value}"] if rng.random() < 0.5 else [option, str(value)]


def test_every_option_is_drawn() -> None:
    assert set(DRAWN) == {field.name for field in fields(TrainConfig)} - {"data", "task"}


@pytest.mark.parametrize("seed", range(TRIALS))
def test_the_order_of_options_makes_no_difference(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.choice(["digits", "digits", "./digits", "photos", "train"])
    options = options_of(rng)
    recipe = options.pop("recipe", None)
    expected = vars(recipes.config(recipe or recipes.recipe_of(data), data, **options))
    options |= {"recipe": recipe} if recipe else {}
    for _ in range(4):
        parts = [[data], *(written(name, value, rng) for name, value in options.items())]
        rng.shuffle(parts)
        command: Any = parse(["train", *chain(*parts)])
        assert vars(command.config) == expected


@pytest.mark.parametrize("seed", range(TRIALS))
def test_options_may_come_before_the_command(seed: int) -> None:
    rng = random.Random(seed)
    options = {name: DRAWN[name](rng) for name in ("epochs", "lr", "seed")}
    parts = [written(name, value, rng) for name, value in options.items()]
    rng.shuffle(parts)
    before = rng.randint(1, len(parts))
    args = [*chain(*parts[:before]), "train", *chain(*parts[before:]), "digits"]
    command: Any = parse(args)
    assert vars(command.config) == {**vars(DIGITS), **options}


def arguments_of(command: Callable[..., Any]) -> tuple[list[str], list[list[str]]]:
    """Words for what a command takes without a name, and each of its options with a value."""
    values: list[str] = []
    options: list[list[str]] = []
    hints = get_type_hints(command, include_extras=True)
    for field in fields(command):  # type: ignore[arg-type] # all commands are dataclasses
        hint = hints[field.name]
        of, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        option = f"--{field.name.replace('_', '-')}"
        choices = [x for part in (of, *get_args(of)) for x in get_args(part) if type(x) is str]
        if is_dataclass(of):
            inner = arguments_of(of)  # type: ignore[arg-type]
            values += inner[0]
            options += inner[1]
        elif Positional[int].__metadata__[0] in marks:  # type: ignore[attr-defined]
            values += ["a.png", "b.png", "c.png"] if get_origin(of) is tuple else [field.name]
        elif of is bool:
            options.append([option])
        elif not marks:
            numbers = {int: "1", float: "0"}
            others = [numbers[kind] for kind in get_args(of) if kind in numbers] or ["word"]
            options.append([option, *(choices or others)[:1]])
            if isinstance(field.default, int | float):
                options[-1][1] = str(field.default)
    return values, options


def interleaved(values: list[str], options: list[list[str]], rng: random.Random) -> list[str]:
    """Options in any order, at any places among values that stay in theirs."""
    rng.shuffle(options)
    places = sorted(rng.randint(0, len(values)) for _ in options)
    parts = [[value] for value in values]
    for place, option in reversed(list(zip(places, options, strict=True))):
        written = option if len(option) == 1 or rng.random() < 0.5 else ["=".join(option)]
        parts.insert(place, written)
    return list(chain(*parts))


WITH_VALUES = [name for name, command in COMMANDS.items() if arguments_of(command)[0]]


@pytest.mark.parametrize("name", WITH_VALUES)
def test_options_stand_anywhere_among_values(name: str) -> None:
    values, options = arguments_of(COMMANDS[name])
    rng = random.Random(name)
    for _ in range(12):
        some = rng.sample(options, rng.randint(0, min(3, len(options))))
        expected = parse([name, *chain(*some), *values])
        assert parse([name, *interleaved(values, some, rng)]) == expected


def test_what_follows_two_dashes_is_no_option() -> None:
    args = ["predict", "run", "a.png", "--device", "cpu", "b.png", "--", "-c.png", "--device"]
    images = ["a.png", "b.png", "-c.png", "--device"]
    assert vars(parse(args)) == {
        "run": Path("run"),
        "images": tuple(map(Path, images)),
        "device": "cpu",
    }


@pytest.mark.parametrize(
    "args", [["digits", "--help"], ["--help", "digits"], ["--epochs", "3", "-h", "digits"]]
)
def test_help_shows_the_defaults_of_the_data(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *args])
    assert not end.value.code
    assert "default: biformer_micro" in capsys.readouterr().out


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_bilevel_alone_shows_its_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert not end.value.code
    said = capsys.readouterr()
    assert all(f"• {name}" in said.out or f"* {name}" in said.out for name in COMMANDS)
    assert said.err == ""


def misspelt(word: str, rng: random.Random) -> str:
    """A word of four letters or more with two neighbours swapped, or a letter lost or doubled."""
    i = rng.randrange(1, len(word) - 1)
    ways = (
        word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        word[:i] + word[i + 1 :],
        word[:i] + word[i] + word[i:],
    )
    return next((way for way in rng.sample(ways, 3) if way != word), word + "x")


def near(args: list[str]) -> str:
    with pytest.raises(InputError) as raised:
        parse(args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_what_is_nearly_right_is_suggested(seed: int) -> None:
    rng = random.Random(seed)
    command = rng.choice(list(COMMANDS))
    assert near([misspelt(command, rng), "x"]).endswith(f"; did you mean {command}?")
    name = rng.choice([n for n in DRAWN if len(n) > 3 and not isinstance(DRAWN[n](rng), bool)])
    option = f"--{name.replace('_', '-')}"
    wrong = [f"--{misspelt(option[2:], rng)}", str(DRAWN[name](rng))]
    for args in (["train", "digits", *wrong], ["train", *wrong, "digits"], ["train", *wrong]):
        assert near(args).endswith(f"; did you mean {option}?")
    model = rng.choice(list(MODELS))
    said = near(["train", "digits", "--model", misspelt(model, rng)])
    assert said.endswith(f"; did you mean {model}?") or "biformer_stl" in said


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        ("trian digits", "train"),
        ("TRAIN digits", "train"),
        ("bench modle", "model"),
        ("bench op --devcie cpu", "--device"),
        ("bench op --device cdua", "cuda"),
        ("predict run --devcie cpu x", "--device"),
        ("eval run --devise cpu", "--device"),
        ("bakends", "backends"),
        ("--verison", "--version"),
        ("--hlep", "--help"),
        ("train digits --debgu", "--debug"),
    ],
)
def test_near_misses_of_each_kind(args: str, meant: str) -> None:
    assert near(args.split()).endswith(f"; did you mean {meant}?")


def test_nothing_is_suggested_for_an_option_that_is_right() -> None:
    """However it is written."""
    for option in ("--batch-size", "--batch_size", "--batch-size=8", "--batch_size=8"):
        args = ["train", "digits", option, *["8"] * ("=" not in option), "--image-size", "large"]
        assert "batch" not in near(args)


def test_nothing_is_suggested_for_what_is_near_to_nothing() -> None:
    assert "did you mean" not in near(["frobnicate"])
    assert "did you mean" not in near(["train", "digits", "--qqqqq", "3"])


@pytest.mark.parametrize(
    "args", [["train", "~/photos"], ["train", "digits", "--out=~/photos"], ["eval", "~/photos"]]
)
def test_a_tilde_is_the_home(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("bilevel.cli._command", seen.append)
    main(args)
    assert seen == [[arg.replace("~", str(tmp_path)) for arg in args]]
