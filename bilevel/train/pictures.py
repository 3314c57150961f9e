"""Pictures of a run: its curves, and what it says of test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bilevel.files import replacing
from bilevel.train.data import Batch

SHEET = (6, 8)
"""Rows and columns of the sheet of predictions."""


def curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and accuracy over the epochs, training and test."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part in ("train", "test"):
            axes.plot(epochs, [row[f"{part}_{name}"] for row in rows], marker=".", label=part)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


class Seen(NamedTuple):
    """A test image ``(C, H, W)``, its label and what the model took it for."""

    image: Tensor
    label: int
    found: int


@torch.inference_mode()
def select(model: nn.Module, batches: Iterable[Batch]) -> list[Seen]:
    """Enough test images for a sheet: at most half of them errors, the rest right."""
    model.eval()
    room = SHEET[0] * SHEET[1]
    wrong: list[Seen] = []
    right: list[Seen] = []
    for images, labels in batches:
        for seen in map(Seen, images, labels.tolist(), model(images).argmax(-1).tolist()):
            (right if seen.label == seen.found else wrong).append(seen)
        wrong, right = wrong[: room // 2], right[:room]
    return [*wrong, *right][:room]


def predictions(sheet: Sequence[Seen], classes: Sequence[str], path: Path) -> None:
    """A sheet of test images, each with its label and the prediction; errors are red."""
    rows, columns = SHEET
    figure = Figure(figsize=(columns * 1.3, rows * 1.5), layout="constrained")
    for axes in (grid := figure.subplots(rows, columns)).flat:
        axes.axis("off")
    for seen, axes in zip(sheet, grid.flat, strict=False):
        image = seen.image.cpu().permute(1, 2, 0)
        low, high = image.min(), image.max()
        axes.imshow(((image - low) / (high - low).clamp(min=1e-6)).numpy(), cmap="gray")
        color = "black" if seen.label == seen.found else "red"
        axes.set_title(f"{classes[seen.label]} → {classes[seen.found]}", fontsize=9, color=color)
    figure.suptitle("label → prediction")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
