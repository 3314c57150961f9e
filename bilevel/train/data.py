"""Images with labels: scikit-learn's digits, or any folder of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bilevel.errors import InputError
from bilevel.train import fashion_mnist, named, splits
from bilevel.train.config import TrainConfig
from bilevel.train.datasets import OfTimm, Unviewed, Viewed, WithMaps
from bilevel.train.recipes import DIGITS

HELD_OUT = 0.2
FASHION_MNIST = "fashion-mnist"
DIGIT_SCENES = "digit-scenes"


class Batch(NamedTuple):
    """Images ``(N, C, H, W)``, float32 and normalised, and their labels, int64 ``(N,)``; or what
    else has a length N that a task and its model take."""

    images: Any
    labels: Any

    def to(self, device: str) -> Batch:
        """The batch on a device; from pinned memory, without waiting for it."""
        images, labels = (x.to(device, non_blocking=True) for x in self)
        return Batch(images, labels)


class Normalisation(NamedTuple):
    """From pixels, uint8 ``(N, C, H, W)`` or ``(C, H, W)``, to inputs of a model, float32.

    Images that are float are inputs already, and stay as they are.
    """

    mean: Sequence[float]
    """Of each channel, where pixels are from 0 to 1."""
    std: Sequence[float]

    def __call__(self, images: Tensor) -> Tensor:
        """On whichever device the pixels are."""
        if images.is_floating_point():
            return images
        mean, std = (torch.tensor(x).mul_(255)[:, None, None] for x in self)
        if images.device.type == "cuda":
            mean, std = (x.pin_memory().to(images.device, non_blocking=True) for x in (mean, std))
        return images.float().sub_(mean).div_(std)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""That of the published models."""
GREY = Normalisation((0.5,), (0.5,))


class Summary(NamedTuple):
    """What is saved with a run, to know its data again by."""

    classes: list[str]
    in_chans: int
    train_images: int
    test_images: int


class Data(NamedTuple):
    """A training and a test set of ``(image, label)``, or of images and the labels of their pixels,
    where images are uint8, to be normalised on the device, or float inputs of a model. What cannot
    be read raises InputError. With label maps, labels are what ``token_labels.packing`` packs."""

    classes: Sequence[str]
    in_chans: int
    train: Dataset[tuple[Tensor, Any]]
    test: Dataset[tuple[Tensor, Any]]
    notes: Sequence[str] = ()
    """Where they come from, and what was left out: lines to show."""
    normalise: Normalisation = IMAGENET

    def summary(self) -> Summary:
        """The classes, and how much there is."""
        return Summary(list(self.classes), self.in_chans, length(self.train), length(self.test))


class Originals(NamedTuple):
    """The training images of some data as they are, in their order."""

    classes: Sequence[str]
    names: Sequence[str]
    """Of each image, to know it again by: its path below the folder of all, or its number."""
    images: Dataset[Tensor]
    """uint8 ``(C, H, W)`` of any size. What cannot be read raises InputError."""


def originals(config: TrainConfig) -> Originals:
    """The training images of a config, without what is done to them in training.

    Raises InputError as :func:`find` does.
    """
    return _originals(find(replace(config, label_maps=None)))


def _originals(data: Data) -> Originals:
    train = data.train
    assert isinstance(train, Viewed | OfTimm)
    names = list(map(str, range(len(train))))
    if isinstance(train, Viewed) and isinstance(train.images, list):  # of files
        root = os.path.commonpath(train.images)
        names = [os.path.relpath(path, root) for path in train.images]
    return Originals(data.classes, names, Unviewed(train))


def _with_label_maps(data: Data, config: TrainConfig) -> Data:
    """The data with label maps beside the training images, which move with them.

    Raises InputError if the maps are of other images.
    """
    from bilevel.train.label_views import LabelledView
    from bilevel.train.token_labels.maps import LabelMaps, names_hash

    assert config.label_maps is not None
    assert isinstance(data.train, Viewed | OfTimm)
    maps = LabelMaps(config.label_maps)
    maps.check(data.classes, names_hash(_originals(data).names))
    view = LabelledView(config, data.in_chans, crops=config.data not in NAMES)
    return data._replace(train=WithMaps(data.train, maps, view))


def find(config: TrainConfig) -> Data:
    """The data a config names.

    Raises InputError if they are not there, or if the path is no folder, or a folder without images
    in class folders.
    """
    if config.data == DIGIT_SCENES or config.task == "segment":
        return _segmented(config)
    if config.data in NAMES:
        found = NAMES[config.data](config)
    else:
        found = _named(config) if named.is_name(config.data) else _folder(config)
    return found if config.label_maps is None else _with_label_maps(found, config)


def is_folder(data: str) -> bool:
    """Whether data are a folder, and not a name."""
    return data not in (*NAMES, DIGIT_SCENES) and not named.is_name(data)


def length(dataset: Dataset[Any]) -> int:
    """How many images a dataset has."""
    return len(dataset)  # type: ignore[arg-type]


def reader(config: TrainConfig, in_chans: int = 3) -> Any:
    """From an image, a file's path or of Pillow, to a model's input ``(C, H, W)``, as in testing;
    ``in_chans`` is what the model takes of data without a view of their own."""
    from bilevel.train import views  # torchvision takes seconds to import

    if config.task == "segment":
        from bilevel.train.dense.label_sets import read_fitted

        return lambda path: IMAGENET(read_fitted(config, path))
    if config.data == DIGITS.data:
        return views.of_files(views.read_digit, views.digit_view(config.image_size))
    if config.data == FASHION_MNIST:
        whole = views.of_files(views.read_small, views.whole_view(config.image_size))
        return lambda path: GREY(whole(path))
    read, normalise = (views.read_grey, GREY) if in_chans == 1 else (views.read_rgb, IMAGENET)
    view = views.of_files(read, views.test_view(config.image_size))
    return lambda image: normalise(view(image))


def _digits(config: TrainConfig) -> Data:
    """1797 handwritten digits of 8 x 8 pixels and 17 grey levels, a fifth held out."""
    from sklearn.datasets import load_digits  # sklearn takes a second
    from sklearn.model_selection import train_test_split

    from bilevel.train import views

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    a, b, a_labels, b_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=0
    )
    train = Viewed(a, a_labels, views.digit_train_view(config))
    test = Viewed(b, b_labels, views.digit_view(config.image_size))
    return Data(tuple("0123456789"), 1, train, test, normalise=GREY)


def _fashion_mnist(config: TrainConfig) -> Data:
    """70000 grey images of clothes of 28 x 28 pixels, a seventh of them to test on."""
    from bilevel.train import views

    train, test, folder = fashion_mnist.read(config.data_dir, config.dataset_download)
    return Data(
        fashion_mnist.CLASSES,
        1,
        Viewed(*train, views.whole_train_view(config)),
        Viewed(*test, views.whole_view(config.image_size)),
        [f"Fashion-MNIST in {folder}"],
        GREY,
    )


def _segmented(config: TrainConfig) -> Data:
    from bilevel.train.dense import label_sets

    if config.data in NAMES or named.is_name(config.data):
        raise InputError(f"expected a folder with label maps to segment, got {config.data!r}")
    if config.task != "segment":
        raise InputError(f"expected --task segment for {config.data!r}, got {config.task!r}")
    of_scenes = config.data == DIGIT_SCENES
    found = label_sets.of_scenes(config) if of_scenes else label_sets.of_folder(config)
    return Data(found.classes, 3, found.train, found.test, found.notes)


NAMES: Mapping[str, Callable[[TrainConfig], Data]] = {
    DIGITS.data: _digits,
    FASHION_MNIST: _fashion_mnist,
}
"""Data that have a view of their own, by name."""


def _named(config: TrainConfig) -> Data:
    from bilevel.train import views

    train, test = named.read(config.data, config.data_dir, config.dataset_download)
    channels = len(train.labelled(0)[0])
    return Data(
        train.classes,
        channels,
        OfTimm(train, views.train_view(config, channels)),
        OfTimm(test, views.test_view(config.image_size)),
        [f"train: {len(train.found)} images", f"test: {len(test.found)} images"],
        GREY if channels == 1 else IMAGENET,
    )


def _folder(config: TrainConfig) -> Data:
    from bilevel.train import views

    found = splits.find(Path(config.data))
    pair = (found.train, views.train_view(config)), (found.test, views.test_view(config.image_size))
    train, test = (
        Viewed(*_labelled(split), views.of_files(views.read_rgb, view)) for split, view in pair
    )
    return Data(list(found.train.images), 3, train, test, found.notes)


def _labelled(split: splits.Split) -> tuple[list[str], list[int]]:
    """The paths of all images, and their labels."""
    pairs = [(p, label) for label, paths in enumerate(split.images.values()) for p in paths]
    return [path for path, _ in pairs], [label for _, label in pairs]
