"""``bilevel train``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import OmitArgPrefixes

from bilevel.cli.console import CONSOLE, print_score
from bilevel.train.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Train a BiFormer on `digits` or on a folder of images."""

    config: OmitArgPrefixes[TrainConfig]
    resume: Literal["never", "auto"] = "never"
    """`auto`: go on with the run in the folder `--out` if there is one, else begin it."""

    def __call__(self) -> None:
        from bilevel.train.start import train

        print_score(train(self.config, CONSOLE, self.resume == "auto"))


def with_defaults(defaults: TrainConfig) -> type[Train]:
    """The command with these defaults."""

    @dataclass(frozen=True)
    class WithDefaults(Train):
        config: OmitArgPrefixes[TrainConfig] = defaults

    WithDefaults.__doc__ = Train.__doc__
    return WithDefaults
