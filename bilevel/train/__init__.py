"""Training: a step from one state to the next, and a loop around it with files and progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from bilevel.train.config import TrainConfig

__all__ = ["Trained", "load"]


class Trained(NamedTuple):
    """A run that was trained, to use."""

    model: nn.Module
    """In evaluation mode, on its device."""
    config: TrainConfig
    """As it was resolved."""
    transform: Callable[[str | Path | Image], Tensor]
    """From an image, a file's path or of Pillow, to the model's input, float32 ``(C, H, W)``, as in
    testing. Raises InputError for a file that is no image."""
    classes: Sequence[str]
    """In the order of the model's outputs."""


def load(folder: str | Path, device: str | None = None) -> Trained:
    """The model of a run, its config and its transform.

    Parameters
    ----------
    folder
        Of the run, such as ``"runs/digits-1"``.
    device
        Where the model goes, as torch calls it; None is where it was trained.

    Raises
    ------
    InputError
        If it is not the folder of a run, or has no checkpoint yet.
    WeightsError
        If the checkpoint is of another model.
    """
    from bilevel.train import data, run

    found, model = run.load(Path(folder), device)
    transform = data.reader(found.config, found.architecture.in_chans)
    return Trained(model, found.config, transform, found.data.classes)
