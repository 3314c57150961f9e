"""``bilevel bench``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from bilevel.cli.console import CONSOLE


@dataclass(frozen=True)
class Bench:
    """Measure the operator or whole models on this machine's CPU; print the table, save JSON."""

    what: Positional[Literal["op", "model"]]
    """The operator, or whole models."""
    out: Path | None = None
    """The file for the results; none is `benchmarks/cpu-op.json` or `benchmarks/cpu-model.json`."""
    rounds: int = 15
    """Turns of each contestant; the median counts."""

    def __call__(self) -> None:
        from bilevel.bench import report

        out = self.out or Path("benchmarks", f"cpu-{self.what}.json")
        report.run(self.what, out, self.rounds, CONSOLE)
