"""What a run shows while it trains: a bar, and a line for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Pace(NamedTuple):
    """How fast a run trains."""

    images: float
    """Per second, on all devices together."""
    loading: float
    """The share of the time in which the first process waits for images to be read: it needs more
    workers if this is much."""

    def __str__(self) -> str:
        return f"{self.images:.0f} img/s  loading {self.loading:.0%}"


@dataclass(frozen=True)
class Display:
    """The bar of a run. Numbers are shown in the order they come in, each after its name."""

    bar: Progress
    line: TaskID

    def update(self, step: int, epoch: int, train: Mapping[str, float], pace: Pace) -> None:
        """Show the step of the run that was done, and the means of its epoch so far."""
        shown = _named(train, 3)
        self.bar.update(self.line, completed=step, epoch=epoch, train=shown, pace=pace)

    def epoch(self, epoch: int, parts: Mapping[str, Mapping[str, float]], pace: Pace) -> None:
        """Print the line of an epoch that was done, with what was measured of each part."""
        said = "  ".join(f"{part} {_named(of, 4)}" for part, of in parts.items() if of)
        self.bar.console.print(f"epoch {epoch:3d}  {said}  {pace}")


@contextmanager
def display(console: Console, step: int, steps: int) -> Iterator[Display]:
    """A bar that stands at ``step`` of ``steps``; it is gone at the end."""
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[train]}"),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("training", total=steps, completed=step, epoch=0, train="", pace="")
        yield Display(bar, line)


def _named(numbers: Mapping[str, float], digits: int) -> str:
    return "  ".join(f"{name} {number:.{digits}f}" for name, number in numbers.items())
