"""``bilevel train``"""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import OmitArgPrefixes

from bilevel.cli.console import CONSOLE, print_score
from bilevel.train.config import DIGITS, TrainConfig


@dataclass(frozen=True)
class Train:
    """Train a BiFormer on `digits` or on a folder of images."""

    config: OmitArgPrefixes[TrainConfig]

    def __call__(self) -> None:
        from bilevel.train.loop import train

        print_score(train(self.config, CONSOLE))


@dataclass(frozen=True)
class TrainDigits(Train):
    """Train a BiFormer on scikit-learn's handwritten digits."""

    config: OmitArgPrefixes[TrainConfig] = DIGITS


def resolved(said: TrainConfig) -> type[Train]:
    """The command whose defaults are those for what was said: the recipe of the data. It is asked
    once all is parsed, so the order of options makes no difference."""
    return TrainDigits if said.data == DIGITS.data else Train
