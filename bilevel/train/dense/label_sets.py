"""Data to segment as training takes them: pictures in folders, and scenes of digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from bilevel.train import views
from bilevel.train.config import TrainConfig
from bilevel.train.dense import label_pictures, scenes
from bilevel.train.dense.label_pictures import Labelled, Pair
from bilevel.train.dense.measures import IGNORED
from bilevel.train.dense.scenes import Scenes

TRAIN_SCENES, TEST_SCENES = 4000, 200
SCALES = (0.5, 2.0)
"""Of images to train on, to the size of the crops."""
FILL = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
"""What is beside an image that is smaller than a crop."""

View: TypeAlias = Callable[[Any, Any], Any]
"""From an image and its labels to a square of both."""


class LabelSets(NamedTuple):
    """A training and a test set of uint8 ``(3, size, size)`` and int64 ``(size, size)``."""

    classes: Sequence[str]
    train: Dataset[tuple[Tensor, Tensor]]
    test: Dataset[tuple[Tensor, Tensor]]
    notes: Sequence[str]


def of_scenes(config: TrainConfig) -> LabelSets:
    """Scenes of digits; those to test on are the same for any seed."""
    train = Scenes(TRAIN_SCENES, "train", config.image_size, config.seed)
    test = Scenes(TEST_SCENES, "test", config.image_size)
    notes = [f"{len(train)} scenes of digits to train on, and {len(test)} to test on"]
    return LabelSets(("background", *scenes.CLASSES), _Semantic(train), _Semantic(test), notes)


def of_folder(config: TrainConfig) -> LabelSets:
    """The pictures in a folder: to train on, crops at a random scale, mirrored or not, in colors
    that are distorted now and then; to test on, whole pictures that fit the size.

    Raises InputError as :func:`bilevel.train.dense.label_pictures.find` does.
    """
    found = label_pictures.find(Path(config.data))
    train = _Pictures(found, found.train, _train_view(config))
    test = _Pictures(found, found.test, lambda image, labels: _fitted(config, image, labels))
    return LabelSets(found.classes, train, test, found.notes)


def read_fitted(config: TrainConfig, path: str) -> Tensor:
    """A picture as it is tested, uint8 ``(3, size, size)``. Raises InputError if it is none."""
    image: Tensor = _fitted(config, tv_tensors.Image(views.read_rgb(path)))[0]
    return image.as_subclass(Tensor)


class _Semantic(Dataset[tuple[Tensor, Tensor]]):
    """Scenes, and the class of each pixel."""

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        scene = self._scenes[index]
        return scene.image, scene.semantic()


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of files, in a view."""

    def __init__(self, found: Labelled, pairs: Sequence[Pair], view: View) -> None:
        self._found, self._pairs, self._view = found, pairs, view

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair, found = self._pairs[index], self._found
        image = views.read_rgb(pair.image)
        size = (image.shape[1], image.shape[2])
        labels = label_pictures.read_labels(
            pair.labels, size, len(found.classes), found.reduce_zero_label
        )
        viewed = self._view(tv_tensors.Image(image), tv_tensors.Mask(labels))
        a, b = (x.as_subclass(Tensor) for x in viewed)
        return a.contiguous(), b.contiguous()


def _train_view(config: TrainConfig) -> View:
    size = config.image_size
    return v2.Compose(
        [
            v2.ScaleJitter((size, size), SCALES),
            v2.RandomCrop(size, pad_if_needed=True, fill=FILL),
            v2.RandomHorizontalFlip(config.hflip),
            v2.RandomPhotometricDistort(),
        ]
    )


def _fitted(config: TrainConfig, *parts: Any) -> list[Any]:
    """A picture, and its labels if they are given, as large as fits a square, with filling to the
    right and below."""
    size = config.image_size
    height, width = parts[0].shape[-2:]
    scale = size / max(height, width)
    inner = [max(1, round(n * scale)) for n in (height, width)]
    beside = [0, 0, size - inner[1], size - inner[0]]
    return [F.pad(F.resize(x, inner), beside, fill=FILL[type(x)]) for x in parts]
