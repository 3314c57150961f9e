"""``bilevel compare``"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bilevel.arguments import count
from bilevel.cli.console import CONSOLE


@dataclass(frozen=True)
class Compare:
    """Compare BRA with other attentions in the layout of Swin-T, and with whole models; save a
    table as JSON. What the file has is not measured again, so a run that was ended goes on."""

    only: tuple[str, ...] = ()
    """Rows to measure, such as `bra window BiFormer-T`; by default all."""
    parts: tuple[Literal["counts", "speed", "accuracy"], ...] = ("counts", "speed", "accuracy")
    """What to measure: parameters and operations; images per second and memory on the CPU; accuracy
    of the mixers after training a small layout on Fashion-MNIST."""
    seeds: int = 3
    """Trainings of each mixer, from as many seeds."""
    epochs: int = 3
    """Passes over the training images in each."""
    device: str = "cpu"
    """Where to train, as torch calls it: `cpu`, `cuda`. Speed and memory are those of the CPU."""
    data_dir: Path | None = None
    """The folder of Fashion-MNIST; by default where Debian's package dataset-fashion-mnist or
    torchvision put it."""
    dataset_download: bool = False
    """Let torchvision fetch it if it is not there."""
    out: Path = Path("benchmarks")
    """The folder for the file, `compare.json`."""

    def __call__(self) -> None:
        from bilevel.bench.attentions.accuracy import BUDGET
        from bilevel.bench.attentions.run import Plan, run

        budget = replace(
            BUDGET,
            epochs=self.epochs,
            device=self.device,
            data_dir=self.data_dir,
            dataset_download=self.dataset_download,
        )
        plan = Plan(self.only, self.parts, count("seeds", self.seeds), budget)
        run(plan, self.out / "compare.json", CONSOLE)
