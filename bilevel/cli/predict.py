"""``bilevel predict``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from bilevel.errors import InputError

AT_ONCE = 16
"""Images that are read, and given to the model, together: as many are in memory at a time."""


@dataclass(frozen=True)
class Predict:
    """Class of each image, by a trained run, and its probability. The answers come in the order of
    the images, and those that cannot be read are named at the end."""

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
        task, view = task_of(run.config), data.reader(run.config, run.architecture.in_chans)
        unreadable: dict[Path, InputError] = {}
        for begin in range(0, len(self.images), AT_ONCE):
            inputs = _read(self.images[begin : begin + AT_ONCE], view, unreadable)
            if not inputs:
                continue
            with torch.inference_mode():
                images = torch.stack([image for _, image in inputs]).to(run.config.device)
                said = task.describe(task.outputs(model, images, None), run.data.classes)
            for (path, _), words in zip(inputs, said, strict=True):
                print(f"{path}: {words}", flush=True)
        if unreadable:
            first, *others = unreadable
            nor = f"; nor {', '.join(map(str, others))}" if others else ""
            raise InputError(f"{unreadable[first]}{nor}")


def _read(
    paths: Sequence[Path], view: Callable[[Path], Any], unreadable: dict[Path, InputError]
) -> list[tuple[Path, Any]]:
    """Images as inputs of the model; what cannot be read is put apart, so that the others still
    get their answers."""
    inputs = []
    for path in paths:
        try:
            inputs.append((path, view(path)))
        except InputError as error:
            unreadable[path] = error
    return inputs
