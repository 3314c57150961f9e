"""Pictures with the class of every pixel beside them, in the folders of ADE20K, of Pascal VOC, or
of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bilevel.errors import InputError
from bilevel.train.dense.measures import IGNORED
from bilevel.train.splits import HELD_OUT, role_of

LABELS = ("annotations", "labels", "masks", "SegmentationClassPNG", "SegmentationClass")
"""Names of the folder of label maps, the likeliest first."""
IMAGES = ("images", "JPEGImages", "imgs")
NAMES = ("class_names.txt", "classes.txt", "labels.txt")
"""Files with the name of a class in each line, the class 0 first."""
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant"),
    *("sheep", "sofa", "train", "tv monitor"),
)
ADE_CLASSES = 150
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Of label maps: those that keep every pixel."""


class Pair(NamedTuple):
    """The paths of an image and of its label map."""

    image: str
    labels: str


class Labelled(NamedTuple):
    """Images with label maps, to train on and to test on."""

    classes: Sequence[str]
    train: Sequence[Pair]
    test: Sequence[Pair]
    reduce_zero_label: bool
    """Whether 0 stands for what has no label, and the first class is 1, as in ADE20K."""
    notes: Sequence[str]
    """Where they are, and what was left out: lines to show."""


def find(path: Path, reduce_zero_label: bool | None = None) -> Labelled:
    """The images and label maps in a folder.

    There are three layouts: ``images`` and ``annotations`` (or ``labels``, ``masks``) with a folder
    for each split, such as ADE20K's ``training`` and ``validation``; the same without splits, of
    which a fifth is held out; and Pascal VOC's ``JPEGImages`` and ``SegmentationClass`` with the
    names of images in ``ImageSets/Segmentation``. Names of classes are in ``classes.txt``, a line
    for each, or are those of VOC; else the largest label tells how many classes there are.

    Parameters
    ----------
    path
        The folder.
    reduce_zero_label
        See :class:`Labelled`; None is whether it is ADE20K, by its ``training`` folder.

    Raises
    ------
    InputError
        If it is no such folder, or an image is without a label map or the other way around.
    """
    images, labels = (_folder(path, names) for names in (IMAGES, LABELS))
    lists = path / "ImageSets" / "Segmentation"
    splits = {role_of(each.name): each.name for each in _folders(images)}
    if lists.is_dir():
        parts = [_named(images, labels, lists / f"{name}.txt") for name in ("train", "val")]
    elif "train" in splits:
        test = splits.get("val") or splits.get("test")
        if test is None:
            raise InputError(f"expected a folder val beside train in {images}, found none")
        parts = [_pairs(images / name, labels / name) for name in (splits["train"], test)]
    else:
        parts = list(_held_out(_pairs(images, labels)))
    is_ade = splits.get("train") == "training"
    reduce = is_ade if reduce_zero_label is None else reduce_zero_label
    classes = _classes(path, [pair for part in parts for pair in part], is_ade, lists, reduce)
    notes = [
        f"{what}: {len(part)} images with label maps of {len(classes)} classes in {path}"
        for what, part in zip(("train", "test"), parts, strict=True)
    ]
    return Labelled(classes, parts[0], parts[1], reduce, notes)


def read_labels(
    path: str, size: tuple[int, int], num_classes: int, reduce_zero_label: bool = False
) -> Tensor:
    """The class of each pixel, int64 ``(H, W)``; 255 where a pixel has none.

    Maps may have a palette, 8 or 16 bits.

    Raises InputError if the file is no map of one channel, is of another height and width than its
    image, which ``size`` is, or has a label that is no class.
    """
    labels = _pixels(path)
    if labels.shape != size:
        raise InputError(
            f"expected the label map {path} to be of its image's height and width {size}, got "
            f"{labels.shape}"
        )
    if reduce_zero_label:
        labels = np.where(labels == IGNORED, IGNORED, labels - 1)
        labels[labels == -1] = IGNORED
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        first = int(reduce_zero_label)
        raise InputError(
            f"expected labels from {first} to {num_classes - 1 + first} or {IGNORED} in the label "
            f"map {path}, got {labels[y, x] + first} at row {y}, column {x}"
        )
    return torch.from_numpy(labels)


def _pixels(path: str) -> np.ndarray:
    """int64 ``(H, W)``."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
                raise InputError(
                    f"expected the label map {path} to have a number for each pixel, got a picture "
                    f"of mode {image.mode}"
                )
            return np.array(image).astype(np.int64)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read the label map {path}: {error}") from error


def _folder(path: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (path / name).is_dir():
            return path / name
    raise InputError(f"expected a folder {' or '.join(names)} in {path}, found none")


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir())


def _by_stem(folder: Path, maps: bool = False) -> dict[str, str]:
    """The images in a folder, or with ``maps`` the label maps, by their names without suffixes."""
    known = SUFFIXES if maps else tuple(Image.registered_extensions())
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        each.stem: str(each)
        for each in files
        if each.suffix.lower() in known and not each.name.startswith(".")
    }


def _pairs(images: Path, labels: Path) -> list[Pair]:
    """Each image of a folder with its map. Raises InputError if one is without the other."""
    pictures, maps = _by_stem(images), _by_stem(labels, maps=True)
    if not pictures:
        raise InputError(f"expected images in {images}, found none")
    for one, other, what in ((pictures, maps, "a label map"), (maps, pictures, "an image")):
        if alone := [one[stem] for stem in one if stem not in other]:
            folder = labels if one is pictures else images
            more = f", and for {len(alone) - 1} more" if len(alone) > 1 else ""
            raise InputError(f"expected {what} for {alone[0]} in {folder}, found none{more}")
    return [Pair(pictures[stem], maps[stem]) for stem in pictures]


def _named(images: Path, labels: Path, file: Path) -> list[Pair]:
    """The images that a file names, a line for each."""
    try:
        stems = file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise InputError(f"cannot read the names of images {file}: {error}") from error
    pictures, maps = _by_stem(images), _by_stem(labels, maps=True)
    for stem in stems:
        if stem not in pictures or stem not in maps:
            folder = images if stem not in pictures else labels
            raise InputError(f"expected {stem}, which {file} names, in {folder}, found none")
    if not stems:
        raise InputError(f"expected names of images in {file}, found none")
    return [Pair(pictures[stem], maps[stem]) for stem in stems]


def _held_out(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Without a fifth, and that fifth; the same each time."""
    if len(pairs) < 2:
        raise InputError(f"too few images to hold some out for testing: got {pairs[0].image} alone")
    held = set(Random(0).sample(pairs, max(1, round(len(pairs) * HELD_OUT))))
    return [pair for pair in pairs if pair not in held], [pair for pair in pairs if pair in held]


def _classes(
    path: Path, pairs: Sequence[Pair], is_ade: bool, lists: Path, reduce_zero_label: bool
) -> list[str]:
    for name in NAMES:
        if (path / name).is_file():
            lines = (path / name).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
    if lists.is_dir():
        return list(VOC)
    if is_ade:
        return [f"class {i}" for i in range(ADE_CLASSES)]
    largest = 0
    for pair in pairs:
        labels = _pixels(pair.labels)
        largest = max(largest, int(labels[labels != IGNORED].max(initial=0)))
    return [f"class {i}" for i in range(largest + 1 - int(reduce_zero_label))]
