"""``bilevel predict``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from bilevel.errors import InputError


@dataclass(frozen=True)
class Predict:
    """Class of each image, by a trained run, and its probability."""

    run: Positional[Path]
    """Folder of the run."""
    images: Positional[tuple[Path, ...]]
    """Image files. To a run on digits, show a light digit on a dark ground."""
    device: str | None = None
    """Where to compute; by default where it was trained."""

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("expected at least one image file after the folder of the run")

    def __call__(self) -> None:
        import torch

        from bilevel.train import data
        from bilevel.train.run import load
        from bilevel.train.tasks import task_of

        run, model = load(self.run, self.device)
        task, view = task_of(run.config), data.reader(run.config)
        inputs = [view(path) for path in self.images]  # all of them first: one may not be readable
        with torch.inference_mode():
            for path, image in zip(self.images, inputs, strict=True):
                outputs = task.outputs(model, image[None].to(run.config.device), None)
                [said] = task.describe(outputs, run.data.classes)
                print(f"{path}: {said}")
