"""Pictures of a run: its curves, and what it says of test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from bilevel.train.data import Batch
from bilevel.train.files import replacing

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


@torch.inference_mode()
def predictions(model: nn.Module, batch: Batch, classes: Sequence[str], path: Path) -> None:
    """A sheet of test images, each with its label and the prediction; errors are red."""
    model.eval()
    rows, columns = SHEET
    found = model(batch.images).argmax(-1).tolist()
    images = batch.images.cpu()
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1)
    figure = Figure(figsize=(columns * 1.3, rows * 1.5), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns).flat):
        axes.axis("off")
        if i < len(found):
            label = int(batch.labels[i])
            axes.imshow(shown[i].squeeze(-1).numpy(), cmap="gray")
            right = found[i] == label
            said = classes[label] if right else f"{classes[label]}, not {classes[found[i]]}"
            axes.set_title(said, fontsize=9, color="black" if right else "red")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
