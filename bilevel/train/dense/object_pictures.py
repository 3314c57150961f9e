"""Pictures with objects, to train on and to test on: folders with COCO files, or of Pascal VOC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from bilevel.errors import InputError
from bilevel.train.dense import coco, voc
from bilevel.train.dense.coco import Annotated, Picture
from bilevel.train.splits import HELD_OUT, SPLITS


class Objects(NamedTuple):
    """Pictures with objects of some classes."""

    classes: Sequence[str]
    """Of the labels 1, 2 and so on."""
    train: Sequence[Picture]
    test: Sequence[Picture]
    notes: Sequence[str]
    """Where they are, and what was repaired: lines to show."""


def find(path: Path) -> Objects:
    """The pictures in a folder.

    Either it has files of COCO's format, in itself, in a folder ``annotations`` or in those of the
    splits, whose names tell the splits, such as ``instances_train2017.json``; the images are where
    the names in them lead from the file, a folder beside it or one of ``images``. A single file is
    of all, of which a fifth of the images is held out. Or it is a folder of Pascal VOC, with
    ``JPEGImages``, ``Annotations`` and lists in ``ImageSets/Main``.

    Raises
    ------
    InputError
        If it is neither, or something in it cannot be used; the line names it.
    """
    if (path / "ImageSets" / "Main").is_dir():
        return _voc(path)
    files = {file: _role(file) for file in _coco_files(path)}
    by_role = {role: file for file, role in reversed(files.items()) if role}
    if len(by_role) < 2 and len(files) > 1:
        some = ", ".join(str(file) for file in files)
        raise InputError(f"expected files with train and val (or test) in their names, got {some}")
    if not files:
        raise InputError(f"expected a COCO file in {path}, or folders of Pascal VOC, found neither")
    if len(files) == 1:
        (file,) = files
        found = coco.read(file, _root(path, file, None))
        train, test = _held_out(found.pictures, file)
        return _objects(path, found, train, test, found.notes)
    if "train" not in by_role:
        raise InputError(f"expected a COCO file with train in its name in {path}, found none")
    test_role = "val" if "val" in by_role else "test"
    both = [
        coco.read(by_role[role], _root(path, by_role[role], role)) for role in ("train", test_role)
    ]
    if both[0].classes != both[1].classes:
        raise InputError(
            f"expected the categories of {by_role['train']} in {by_role[test_role]}, got others"
        )
    notes = [*both[0].notes, *both[1].notes]
    return _objects(path, both[0], both[0].pictures, both[1].pictures, notes)


def _objects(
    path: Path,
    found: Annotated,
    train: Sequence[Picture],
    test: Sequence[Picture],
    repaired: Sequence[str],
) -> Objects:
    notes = [
        f"{what}: {len(part)} images in {path} with {sum(len(each.objects) for each in part)} "
        f"objects of {len(found.classes)} classes"
        for what, part in (("train", train), ("test", test))
    ]
    return Objects(found.classes, train, test, [*notes, *repaired])


def _coco_files(path: Path) -> Iterator[Path]:
    """Files that may be of COCO's format, those of instances alone where there are others."""
    folders = [path, *sorted(each for each in path.glob("*") if each.is_dir())]
    found = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    instances = [file for file in found if file.name.startswith("instances_")]
    return iter(instances or found)


def _role(file: Path) -> str | None:
    """The split that the name of a file, or of its folder, tells."""
    for name in (file.stem, file.parent.name):
        words = "".join(c if c.isalpha() else " " for c in name.casefold()).split()
        for role, names in SPLITS.items():
            if set(words) & set(names.split("|")):
                return role
    return None


def _root(path: Path, file: Path, role: str | None) -> Path:
    """The folder that the names of images in a file are from. The file is checked later."""
    try:
        first = json.loads(file.read_text(encoding="utf-8"))["images"][0]["file_name"]
    except (OSError, ValueError, LookupError, TypeError):
        return file.parent
    beside = [each for each in sorted(path.glob("*")) if each.is_dir()]
    inner = [each for each in sorted((path / "images").glob("*")) if each.is_dir()]
    folders = [file.parent, path, *beside, *inner]
    folders.sort(key=lambda each: role is not None and _role(each / "x") != role)
    return next((each for each in folders if (each / str(first)).is_file()), file.parent)


def _held_out(pictures: Sequence[Picture], file: Path) -> tuple[list[Picture], list[Picture]]:
    """Without a fifth, and that fifth; the same each time."""
    if len(pictures) < 2:
        raise InputError(f"too few images in {file} to hold some out for testing: got one")
    held = set(Random(0).sample(range(len(pictures)), max(1, round(len(pictures) * HELD_OUT))))
    train = [each for i, each in enumerate(pictures) if i not in held]
    return train, [pictures[i] for i in sorted(held)]


def _voc(path: Path) -> Objects:
    lists = path / "ImageSets" / "Main"
    stems = []
    for name in ("train", "val"):
        try:
            stems.append((lists / f"{name}.txt").read_text(encoding="utf-8").split())
        except OSError as error:
            raise InputError(f"cannot read the names of images: {error}") from error
    whole = voc.read(path, [*stems[0], *stems[1]])
    train = whole.pictures[: len(stems[0])]
    return _objects(path, whole, train, whole.pictures[len(stems[0]) :], whole.notes)
