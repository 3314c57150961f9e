"""``bilevel resume``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from bilevel.cli.console import CONSOLE, print_score


@dataclass(frozen=True)
class Resume:
    """Go on with a training run that was stopped, to the end of its epochs."""

    run: Positional[Path]
    """Folder of the run."""

    def __call__(self) -> None:
        from bilevel.train.start import resume

        print_score(resume(self.run, CONSOLE))
