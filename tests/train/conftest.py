"""A small run on the striped images, trained once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from bilevel.train import start
from bilevel.train.config import TrainConfig

QUIET = Console(quiet=True)


class Trained(NamedTuple):
    """The folder of a run that was trained to its end, and what was measured then."""

    folder: Path
    test: dict[str, float]


@pytest.fixture(scope="session")
def config(stripes: Path) -> TrainConfig:
    """Three epochs of four steps."""
    return TrainConfig(
        data=str(stripes),
        model="biformer_micro",
        image_size=32,
        epochs=3,
        batch_size=4,
        lr=1e-3,
        warmup_epochs=1,
        workers=0,
    )


@pytest.fixture
def quiet() -> Console:
    """A console that shows nothing."""
    return QUIET


@pytest.fixture(scope="session")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of that config; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return Trained(folder, start.train(replace(config, out=folder), QUIET))


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of its folder, to be damaged."""
    return Path(shutil.copytree(trained.folder, tmp_path / "run"))
