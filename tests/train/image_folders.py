"""Folders of images as people have them, made at random, and what should be found in them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

Image.init()  # knows what can be saved from then on
SUFFIXES = (
    *(".png", ".PNG", ".apng", ".jpg", ".Jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif"),
    *(".ppm", ".tga", ".ico", ".pcx", ".sgi", ".dds"),
    *((".qoi",) if "QOI" in Image.SAVE else ()),  # Pillow reads it, and before 11.3 writes it not
)
CLASSES = ("cat", "Dog", "$1_bill", "100$", "a b", "Größe", "猫", "__init__", "0", "x.y", "-v")
NAMES = {
    "train": ("train", "Train", "TRAINING", "train_set", "training-set", "trn"),
    "val": ("val", "Val", "valid", "Validation", "VALID", "dev", "validation_set"),
    "test": ("test", "Test", "testing", "TEST", "test_images", "Testing Set"),
}


class Expected(NamedTuple):
    """What there is in a folder: classes, and how many images; or the error that it is."""

    classes: list[str]
    train: int
    test: int
    error: str = ""


def image(path: Path, draw: Random) -> None:
    """Write a small image, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(draw.randrange(2**32)).integers(0, 255, (12, 9, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path, sizes=[(9, 12)])  # an icon's own sizes


def run(path: Path) -> None:
    """What a run leaves behind."""
    image(path / "curves.png", Random(0))
    (path / "config.json").write_text(json.dumps({"architecture": {}}))
    (path / "data.json").write_text("{}")


def images(root: Path, draw: Random, count: int) -> None:
    """Write images into a class folder, some of them deeper in it."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        deeper = draw.choice(("", "", "", "more", f"{root.name}/even/more"))
        image(root / deeper / f"{i}{draw.choice(SUFFIXES)}", draw)


def litter(root: Path, draw: Random) -> None:
    """Put what is no data somewhere into a folder: hidden files, runs, files of other kinds."""
    places = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    for _ in range(draw.randrange(6)):
        place = draw.choice(places)
        kind = draw.randrange(7)
        if kind == 0:
            image(place / ".ipynb_checkpoints" / "0-checkpoint.png", draw)
        elif kind == 1:
            (place / "._0.png").write_bytes(b"no image")
        elif kind == 2:
            image(place / "__MACOSX" / "cat" / "0.png", draw)
        elif kind == 3:
            (place / ".DS_Store").write_bytes(b"\0")
        elif kind == 4:
            (place / draw.choice(("labels.csv", "readme", "0.heic", "Thumbs.db"))).write_text("x")
        elif kind == 5:
            run(place / draw.choice(("runs/images-1", "out", f"{place.name}-1")))
        elif not (link := place / "again").exists():
            link.symlink_to(place)


def make(root: Path, draw: Random) -> Expected:
    """Make a folder at random."""
    layout = draw.choice(("classes", "splits", "splits", "unlabelled", "alike", "flat", "one"))
    names = sorted(draw.sample(CLASSES, draw.randint(2, 4)))
    expected = globals()[f"_{layout}"](root, draw, names)
    litter(root, draw)
    return expected


def _classes(root: Path, draw: Random, names: list[str]) -> Expected:
    counts = [draw.choice((1, 2, 3, 4, 5, 6, 9)) for _ in names]
    for name, count in zip(names, counts, strict=True):
        images(root / name, draw, count)
    if 1 in counts:
        return Expected([], 0, 0, "too few images in")
    held = sum(max(1, round(count / 5)) for count in counts)
    return Expected(names, sum(counts) - held, held)


def _splits(root: Path, draw: Random, names: list[str]) -> Expected:
    roles = draw.choice((("train", "val"), ("train", "test"), ("train", "val", "test")))
    counts = {}
    for role in roles:
        folder = root / draw.choice(NAMES[role])
        each = [draw.randint(1, 4) for _ in names]
        counts[role] = sum(each)
        for name, count in zip(names, each, strict=True):
            images(folder / name, draw, count)
        if role in roles[:2] and draw.random() < 0.1:
            (folder / "empty").mkdir()
            (folder / "empty" / "later.txt").write_text("x")
            return Expected([], 0, 0, "found no images in 'empty'")
    return Expected(names, counts["train"], counts[roles[1]])


def _unlabelled(root: Path, draw: Random, names: list[str]) -> Expected:
    """Class folders in the training images alone; those to test on have no labels."""
    expected = _classes(root / draw.choice(NAMES["train"]), draw, names)
    image(root / draw.choice(NAMES["test"]) / "0.png", draw)
    return expected


def _alike(root: Path, draw: Random, names: list[str]) -> Expected:
    """Splits by names that nobody knows."""
    for split in ("one", "two"):
        for name in names:
            image(root / split / name / "0.png", draw)
    return Expected([], 0, 0, "'?one'? and '?two'? both have folders")


def _flat(root: Path, draw: Random, names: list[str]) -> Expected:
    """Splits without class folders."""
    for role in ("train", "test"):
        image(root / draw.choice(NAMES[role]) / "0.png", draw)
    return Expected([], 0, 0, "name splits train and val or test")


def _one(root: Path, draw: Random, names: list[str]) -> Expected:
    """One class, or none."""
    for name in names[: draw.randrange(2)]:
        images(root / name, draw, 3)
    root.mkdir(exist_ok=True)
    return Expected([], 0, 0, "expected one folder of images per class")
