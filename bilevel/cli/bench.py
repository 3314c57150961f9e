"""``bilevel bench``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from bilevel.cli.console import CONSOLE


@dataclass(frozen=True)
class Bench:
    """Measure the operator or whole models on this machine's CPU, or both on its GPU; print the
    rows, save them as JSON."""

    what: Positional[Literal["op", "model", "gpu"]]
    """On the CPU the operator, or whole models; all on the GPU."""
    out: Path | None = None
    """The file for the results, by default `benchmarks/cpu-op.json` or `benchmarks/cpu-model.json`;
    of `gpu` the folder, by default `benchmarks`, for a file named for the GPU. It is saved row by
    row, and a run that was ended early goes on where it was."""
    rounds: int = 15
    """Turns of each contestant; the median counts."""
    commit: str | None = None
    """The commit that is measured, where there is no checkout to ask."""

    def __call__(self) -> None:
        from bilevel.bench import report

        folder = Path("benchmarks")
        if self.what == "gpu":
            report.run_gpu(self.out or folder, self.rounds, CONSOLE, self.commit)
        else:
            out = self.out or folder / f"cpu-{self.what}.json"
            report.run(self.what, out, self.rounds, CONSOLE, self.commit)
