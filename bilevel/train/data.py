"""Images with labels: scikit-learn's digits, or any folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bilevel.train import splits, workers
from bilevel.train.config import DIGITS, TrainConfig

HELD_OUT = 0.2


class Batch(NamedTuple):
    """Images ``(N, C, H, W)``, float32 and normalised, and their labels, int64 ``(N,)``; or what
    else has a length N that a task and its model take."""

    images: Any
    labels: Any

    def to(self, device: str) -> Batch:
        """The batch on a device."""
        return Batch(self.images.to(device), self.labels.to(device))


class Summary(NamedTuple):
    """What is saved with a run, to know its data again by."""

    classes: list[str]
    in_chans: int
    train_images: int
    test_images: int


class Data(NamedTuple):
    """A training and a test set of ``(image, label)``."""

    classes: Sequence[str]
    in_chans: int
    train: Dataset[tuple[Tensor, int]]
    test: Dataset[tuple[Tensor, int]]
    notes: Sequence[str] = ()
    """Where they come from, and what was left out: lines to show."""

    def summary(self) -> Summary:
        """The classes, and how much there is."""
        return Summary(list(self.classes), self.in_chans, _length(self.train), _length(self.test))


def find(config: TrainConfig) -> Data:
    """The data a config names.

    Raises InputError if the path is no folder, or a folder without images in class folders.
    """
    if config.data == DIGITS.data:
        return _digits(config.image_size)
    return _folder(Path(config.data), config.image_size)


def steps_per_epoch(dataset: Dataset[Any], config: TrainConfig) -> int:
    """How many batches :func:`shuffled` makes of a dataset."""
    return max(1, _length(dataset) // config.batch_size)


def shuffled(dataset: Dataset[Any], config: TrainConfig, seed: int) -> Iterator[Batch]:
    """Batches of a dataset, shuffled and augmented by a seed; without the rest that does not fill
    a batch, unless it is all there is."""
    # Workers are new in each epoch: those that stay would go on with their random numbers, which
    # no resumed run could do.
    loader = DataLoader(
        dataset,
        config.batch_size,
        shuffle=True,
        drop_last=_length(dataset) > config.batch_size,
        num_workers=config.workers,
        worker_init_fn=workers.end_at_errors,
        generator=torch.Generator().manual_seed(seed),
    )
    return _batches(loader, config.device)


class InOrder:
    """Batches of a dataset in its order, as often as asked for. Nothing in them is random, so the
    workers stay from one time to the next."""

    def __init__(self, dataset: Dataset[Any], config: TrainConfig) -> None:
        self._device = config.device
        self._loader = DataLoader(
            dataset,
            config.batch_size,
            num_workers=config.workers,
            worker_init_fn=workers.end_at_errors,
            persistent_workers=config.workers > 0,
            generator=torch.Generator(),  # else torch's own moves on, which training draws from
        )

    def __iter__(self) -> Iterator[Batch]:
        return _batches(self._loader, self._device)


def _batches(loader: DataLoader[Any], device: str) -> Iterator[Batch]:
    for images, labels in workers.each(loader):
        yield Batch(images, labels).to(device)


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def reader(config: TrainConfig) -> Any:
    """From the path of an image file to a model's input ``(C, H, W)``, as in testing."""
    from bilevel.train import views  # torchvision takes seconds to import

    if config.data == DIGITS.data:
        return views.of_files(views.read_digit, views.digit_view(config.image_size))
    return views.of_files(views.read_rgb, views.test_view(config.image_size))


class _Viewed(Dataset[tuple[Tensor, int]]):
    """Images, or what a view makes images of, with their labels."""

    def __init__(self, images: Any, labels: Any, view: Any) -> None:
        self.images, self.labels, self.view = images, labels, view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.view(self.images[index]), int(self.labels[index])


def _digits(size: int) -> Data:
    """1797 handwritten digits of 8 x 8 pixels and 17 grey levels, a fifth held out."""
    from sklearn.datasets import load_digits  # sklearn takes a second
    from sklearn.model_selection import train_test_split

    from bilevel.train import views

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    a, b, a_labels, b_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=0
    )
    train = _Viewed(a, a_labels, views.digit_train_view(size))
    return Data(tuple("0123456789"), 1, train, _Viewed(b, b_labels, views.digit_view(size)))


def _folder(path: Path, size: int) -> Data:
    from bilevel.train import views

    found = splits.find(path)
    train, test = (
        _Viewed(*_labelled(split), views.of_files(views.read_rgb, view(size)))
        for split, view in ((found.train, views.train_view), (found.test, views.test_view))
    )
    return Data(list(found.train.images), 3, train, test, found.notes)


def _labelled(split: splits.Split) -> tuple[list[str], list[int]]:
    """The paths of all images, and their labels."""
    pairs = [(p, label) for label, paths in enumerate(split.images.values()) for p in paths]
    return [path for path, _ in pairs], [label for _, label in pairs]
