"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), from wherever it was put."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.errors import InputError

CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""
TORCHVISION = Path("FashionMNIST", "raw")
"""Where torchvision puts it, in the folder that it is told."""
USUAL = Path("data")
"""The folder that is looked into, and downloaded to, unless another is given."""
PARTS = {"train": "train", "test": "t10k"}
SIZE = 28


class Labelled(NamedTuple):
    """Grey images, uint8 ``(N, 28, 28)``, and their classes, uint8 ``(N,)``."""

    images: Any
    labels: Any


def read(folder: Path | None, download: bool) -> tuple[Labelled, Labelled, Path]:
    """The 60000 images to train on, the 10000 to test on, and where they are.

    They are looked for in ``folder``, or else where Debian and torchvision put them; with
    ``download``, torchvision fetches what is not there.

    Raises InputError if they are not found, or are no such images.
    """
    places = [DEBIAN, USUAL] if folder is None else [folder]
    found = _found(places)
    if found is None and download:
        found = _downloaded(folder or USUAL)
    if found is None:
        raise InputError(
            f"found no Fashion-MNIST in {' or '.join(map(str, places))}: install Debian's package "
            "dataset-fashion-mnist, or name the folder of its four files by --data-dir, or let "
            "torchvision fetch them by --dataset-download"
        )
    train, test = (_labelled(found, part) for part in PARTS.values())
    return train, test, found


def _found(places: Sequence[Path]) -> Path | None:
    folders = [each for place in places for each in (place, place / TORCHVISION)]
    return next((each for each in folders if _file(each, "train-images-idx3") is not None), None)


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}-ubyte{suffix}" for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _downloaded(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot fetch Fashion-MNIST into {folder}: {error}") from error
    return folder / TORCHVISION


def _labelled(folder: Path, part: str) -> Labelled:
    images, labels = _array(folder, f"{part}-images-idx3"), _array(folder, f"{part}-labels-idx1")
    if images.shape[1:] != (SIZE, SIZE) or labels.shape != images.shape[:1] or not len(labels):
        raise InputError(
            f"expected images (N, {SIZE}, {SIZE}) and as many labels of {part} in {folder}, got "
            f"{images.shape} and {labels.shape}"
        )
    if labels.max() >= len(CLASSES):
        raise InputError(f"expected labels to 9 of {part} in {folder}, got {labels.max()}")
    return Labelled(images, labels)


def _array(folder: Path, name: str) -> Any:
    """An array of bytes in the format of MNIST: two bytes of zeros, its type, the number of axes,
    and the length of each, big-endian."""
    path = _file(folder, name)
    if path is None:
        raise InputError(f"expected {name}-ubyte.gz in {folder}, beside the training images")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        axes = content[3]
        shape = np.frombuffer(content, ">u4", axes, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise InputError(
            f"expected images or labels as MNIST has them in {path}: {error}"
        ) from error
