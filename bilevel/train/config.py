"""What a training run is made of, as a value that is saved with the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from tyro.conf import Positional, Suppress

from bilevel.arguments import choice, count, number
from bilevel.models import BiFormerConfig
from bilevel.models.config import MODELS

if TYPE_CHECKING:
    ModelName: TypeAlias = str
else:  # from this the command line has its choices
    ModelName = Literal[tuple(MODELS)]

TaskName: TypeAlias = Literal["classify"]


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: Positional[str]
    """`digits`, or a folder of images: one folder per class, or such folders in `train` and
    `val` (or `test`), by any of their usual names. Where nothing else is there to test on, a fifth
    of each class is held out."""
    model: ModelName = "biformer_tiny"
    """The model to train."""
    image_size: int = 224
    """Height and width of the images, in pixels."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 5e-4
    """Highest learning rate of AdamW, reached after the warm-up."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; none on norms and biases."""
    warmup_epochs: float = 5
    """Epochs in which the learning rate rises; then it falls to zero as a cosine."""
    label_smoothing: float = 0.1
    """Probability that the target spreads over all classes."""
    drop_path: float | None = None
    """Probability with which the last block's branches are dropped (stochastic depth); by default
    the model's own, with which it was published."""
    repeats: int = 1
    """How often each image is drawn in a row, each time augmented anew (repeated augmentation); an
    epoch then sees as many images as without, of fewer different ones."""
    seed: int = 0
    """Of the initial weights, the order of the images and all that is random in training."""
    workers: int = 2
    """Processes that read images."""
    device: str = "cpu"
    """Where to train, as torch calls it: `cpu`, `cuda`."""
    out: Path | None = None
    """Folder of the run, not there yet; by default a new one in `runs`."""
    task: Suppress[TaskName] = "classify"  # shown once there is a choice
    """What to train for."""

    def __post_init__(self) -> None:
        choice("model", self.model, tuple(MODELS))
        for name, (rule, least, most) in _RANGES.items():
            if name != "drop_path" or self.drop_path is not None:
                object.__setattr__(self, name, rule(name, getattr(self, name), least, most))
        choice("task", self.task, get_args(TaskName))

    def architecture(self, num_classes: int, in_chans: int) -> BiFormerConfig:
        """The model of the run, for classes and channels of its data."""
        model = MODELS[self.model]
        drop_path = model.drop_path if self.drop_path is None else self.drop_path
        return replace(model, num_classes=num_classes, in_chans=in_chans, drop_path=drop_path)


_RANGES: Mapping[str, tuple[Callable[..., float], float, float]] = {
    "image_size": (count, 32, inf),  # the last stage of a model has a 32nd of it
    "epochs": (count, 1, inf),
    "batch_size": (count, 2, inf),  # batch normalisation needs two
    "lr": (number, 1e-12, 1e3),
    "weight_decay": (number, 0, 1e3),
    "warmup_epochs": (number, 0, inf),
    "label_smoothing": (number, 0, 0.99),
    "drop_path": (number, 0, 0.99),
    "repeats": (count, 1, 100),
    "seed": (count, 0, 2**31 - 1),
    "workers": (count, 0, 1024),
}
"""The rule for each number, its least and its greatest value."""

DIGITS = TrainConfig(
    data="digits",
    model="biformer_micro",
    image_size=64,
    epochs=15,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=2,
    workers=0,
)
"""What `bilevel train digits` does unless told otherwise."""
