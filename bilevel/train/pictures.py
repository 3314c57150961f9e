"""Pictures of a run: its curves, and sheets of images. Matplotlib is imported where one is drawn:
commands that draw none begin a second earlier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from bilevel.files import replacing
from bilevel.train.lettering import legible, style
from bilevel.train.table import PARTS, Row, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS, COLUMNS = 6, 8
SHEET = ROWS * COLUMNS
"""Images on a sheet."""


def curves(rows: Sequence[Row]) -> Figure:
    """Each number of the metrics table over the epochs: training, test, averaged weights."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for part in PARTS for name in measured(rows[0], part)))
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        _plot(axes, rows, name)
    return figure


def curve(rows: Sequence[Row], name: str) -> Figure:
    """One number of the metrics table over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    _plot(figure.subplots(), rows, name)
    return figure


def _plot(axes: Axes, rows: Sequence[Row], name: str) -> None:
    epochs = [row["epoch"] for row in rows]
    for part in PARTS:
        if name in measured(rows[0], part):
            values = [measured(row, part)[name] for row in rows]
            axes.plot(epochs, values, marker=".", label=part)
    axes.set(xlabel="epoch")
    shown = legible(name)
    axes.set_ylabel(shown, **style(shown))
    axes.grid(alpha=0.3)
    axes.legend()


class Seen(NamedTuple):
    """An image ``(C, H, W)``, what is said of it, in legible letters, and whether that is right."""

    image: Tensor
    caption: str
    right: bool


def sheet(images: Sequence[Seen], title: str) -> Figure:
    """The first images, each with its caption; what is wrong is red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMNS * 1.3, ROWS * 1.5), layout="constrained")
    for axes in (grid := figure.subplots(ROWS, COLUMNS)).flat:
        axes.axis("off")
    for seen, axes in zip(images, grid.flat, strict=False):
        image = seen.image.cpu().permute(1, 2, 0)
        low, high = image.min(), image.max()
        axes.imshow(((image - low) / (high - low).clamp(min=1e-6)).numpy(), cmap="gray")
        color = "black" if seen.right else "red"
        axes.set_title(seen.caption, fontsize=9, color=color, **style(seen.caption))
    figure.suptitle(title)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
