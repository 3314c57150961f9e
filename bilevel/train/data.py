"""Images with labels: scikit-learn's digits, or any folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bilevel.errors import InputError
from bilevel.train.config import DIGITS, TrainConfig

HELD_OUT = 0.2
HELD_OUT_FOLDERS = ("val", "test")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
            persistent_workers=config.workers > 0,
            generator=torch.Generator(),  # else torch's own moves on, which training draws from
        )

    def __iter__(self) -> Iterator[Batch]:
        return _batches(self._loader, self._device)


def _batches(loader: DataLoader[Any], device: str) -> Iterator[Batch]:
    try:
        for images, labels in loader:
            yield Batch(images, labels).to(device)
    except InputError as error:
        # From a worker process the message comes wrapped in a traceback; its last line is ours.
        raise InputError(str(error).strip().splitlines()[-1].split("InputError: ")[-1]) from None


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def reader(config: TrainConfig) -> Any:
    """From the path of an image file to a model's input ``(C, H, W)``, as in testing."""
    if config.data == DIGITS.data:
        see = _digit_view(config.image_size)
        return lambda path: see(np.array(_read(path, "L").resize((8, 8), Image.Resampling.BOX)))
    view = _test_view(config.image_size)
    return lambda path: view(_read_rgb(path))


class _Viewed(Dataset[tuple[Tensor, int]]):
    """Images in memory, seen through a transform."""

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

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    a, b, a_labels, b_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=0
    )
    view = _digit_view(size)
    jitter = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=-1.0)
    train = _Viewed(a, a_labels, v2.Compose([view, jitter]))
    return Data(tuple("0123456789"), 1, train, _Viewed(b, b_labels, view))


def _digit_view(size: int) -> v2.Compose:
    return v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize(size, v2.InterpolationMode.BILINEAR),
            v2.Normalize([0.5], [0.5]),
        ]
    )


def _folder(path: Path, size: int) -> Data:
    if not path.is_dir():
        raise InputError(f"expected 'digits' or a folder of images, found no folder at {path}")
    train_view, test_view = _train_view(size), _test_view(size)
    # A folder of images called train is a class of its own, among other vehicles say.
    nested = any(entry.is_dir() for entry in path.glob("train/*"))
    root = path / "train" if nested else path
    held_out = next((path / name for name in HELD_OUT_FOLDERS if (path / name).is_dir()), None)
    if root != path and held_out is not None:
        train = _image_folder(root, train_view)
        test = _image_folder(held_out, test_view)
        if train.classes != test.classes:
            raise InputError(
                f"expected the same classes in {root} and {held_out}, got {train.classes} "
                f"and {test.classes}"
            )
        return Data(train.classes, 3, train, test)
    train, test = _image_folder(root, train_view), _image_folder(root, test_view)
    from sklearn.model_selection import train_test_split

    try:
        a, b = train_test_split(
            range(len(train)), test_size=HELD_OUT, stratify=train.targets, random_state=0
        )
    except ValueError as error:
        raise InputError(f"too few images in {root} to hold some out: {error}") from error
    return Data(train.classes, 3, Subset(train, a), Subset(test, b))


def _image_folder(path: Path, view: v2.Compose) -> ImageFolder:
    try:
        folder = ImageFolder(path, view, loader=_read_rgb)
    except FileNotFoundError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"expected one folder of images per class in {path}: {reason}") from error
    if len(folder.classes) < 2:
        raise InputError(f"expected two classes or more in {path}, got {folder.classes}")
    return folder


def _read_rgb(path: str | Path) -> Image.Image:
    return _read(path, "RGB")


def _read(path: str | Path, mode: str) -> Image.Image:
    """An image file, upright, in 8 bits per channel."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise OSError(f"pixels of mode {upright.mode!r} have no range; save it in 8 bits")
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return upright.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


def _train_view(size: int) -> v2.Compose:
    crop = v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_normalised()])


def _test_view(size: int) -> v2.Compose:
    """The official evaluation: the shorter side to size / 0.875, then the centre."""
    resize = v2.Resize(round(size / 0.875), v2.InterpolationMode.BICUBIC)
    return v2.Compose([resize, v2.CenterCrop(size), *_normalised()])


def _normalised() -> tuple[v2.Transform, ...]:
    return (
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    )
