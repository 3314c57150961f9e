"""``bilevel bench``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, subcommand

from bilevel.cli.console import CONSOLE


@dataclass(frozen=True)
class _Timed:
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to measure: the CPU, on any machine, or the GPU that torch finds."""
    out: Path = Path("benchmarks")
    """The folder for the results. On a CPU each subject has its file, `cpu-op.json`,
    `cpu-model.json` or `scaling.json`; on a GPU all share one, which is named for the GPU."""
    rounds: int = 15
    """Turns of each candidate; the median counts."""
    commit: str | None = None
    """The commit that is measured, for an installation that is no git checkout."""

    def measure(self, subject: str) -> None:
        from bilevel.bench.runner import run

        run(subject, self.device, self.out, self.rounds, CONSOLE, self.commit)


@dataclass(frozen=True)
class Op(_Timed):
    """Time the operator on the feature maps of BiFormer's stages and on larger ones."""

    def __call__(self) -> None:
        self.measure("op")


@dataclass(frozen=True)
class Model(_Timed):
    """Time whole models: images per second, in inference and in training."""

    def __call__(self) -> None:
        self.measure("model")


@dataclass(frozen=True)
class Counts:
    """Count instructions and bytes of the Triton kernels as they are compiled for a GPU, which need
    not be there. These are counts, and no measured times."""

    arch: Literal["sm_90", "sm_80"] = "sm_90"
    """The architecture to compile for: sm_90 is that of an H100 or H200, sm_80 that of an A100."""
    only: str | None = None
    """One row alone, as "224 s1": it is printed kernel by kernel, and not saved."""
    out: Path = Path("benchmarks")
    """The folder for the file of all rows, `sm_90-counts.json`."""

    def __call__(self) -> None:
        from bilevel.bench.counts.rows import run

        run(self.arch, self.only, self.out, CONSOLE)


@dataclass(frozen=True)
class Dense(_Timed):
    """Count parameters and operations of detectors and segmenters, and measure the memory that one
    image takes on a CPU; nothing is timed."""

    def __call__(self) -> None:
        self.measure("dense")


@dataclass(frozen=True)
class Scaling(_Timed):
    """Count and time the operator and full attention on maps from 32 x 32 to 512 x 512 tokens."""

    def __call__(self) -> None:
        self.measure("scaling")


@dataclass(frozen=True)
class Reading:
    """Time how training reads images on one core of the CPU, from a JPEG file to what the device
    takes, beside other ways."""

    out: Path = Path("benchmarks")
    """The folder for the file, `cpu-reading.json`."""
    rounds: int = 15
    """Turns of each way; the median counts."""
    commit: str | None = None
    """The commit that is measured, for an installation that is no git checkout."""

    def __call__(self) -> None:
        from bilevel.bench.runner import run

        run("reading", "cpu", self.out, self.rounds, CONSOLE, self.commit)


@dataclass(frozen=True)
class Bench:
    """Measure bilevel on this machine beside other ways to compute the same; print each row and
    save it as JSON. A run that was ended early goes on where it was."""

    subject: OmitArgPrefixes[
        Annotated[Op, subcommand("op", prefix_name=False)]
        | Annotated[Model, subcommand("model", prefix_name=False)]
        | Annotated[Dense, subcommand("dense", prefix_name=False)]
        | Annotated[Scaling, subcommand("scaling", prefix_name=False)]
        | Annotated[Reading, subcommand("reading", prefix_name=False)]
        | Annotated[Counts, subcommand("counts", prefix_name=False)]
    ]

    def __call__(self) -> None:
        self.subject()
