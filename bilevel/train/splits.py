"""Which images are of which class, to train on and to test on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

from bilevel.errors import InputError
from bilevel.train.folders import Folder, in_words, scan

SPLITS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|dev|eval|evaluation",
    "test": "test|testing|tst",
}
"""Names of the folders of splits, in any case, and with `set` or `images` after them."""

HELD_OUT = 0.2

SHOWN = 5
"""Names in a message, of as many as there may be."""


class Split(NamedTuple):
    """The images of each class in a folder, sorted by name."""

    root: str
    images: Mapping[str, Sequence[str]]
    skipped: Counter[str]
    """Files beside the images, by the ends of their names."""

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(map(len, self.images.values()))


class Found(NamedTuple):
    """What there is to train on and to test on."""

    train: Split
    test: Split
    notes: Sequence[str]
    """Where that is, how much it is, and what else is there and not used: lines to show."""


def find(path: Path) -> Found:
    """The images in a folder of class folders, or of splits that hold them.

    Raises InputError if it is neither.
    """
    if not path.is_dir():
        raise InputError(f"expected 'digits' or a folder of images, found no folder at {path}")
    root = scan(str(path))
    if root is None or not root.has_images():
        raise InputError(
            f"expected one folder of images per class in {path}, found no images{_instead(root)}"
        )
    train = _split(root, "train")
    if train is None:
        _check_classes(root)
        return _found(_classes(root), None, _loose(root))
    test = _split(root, "val") or _split(root, "test")
    others = [each for each in root.folders if not (each is train or each is test)]
    others = [each for each in others if each.has_images()]
    foreign = [each.name for each in others if role_of(each.name) is None]
    if test is None and foreign:
        raise InputError(
            f"expected class folders or splits in {path}, but beside {train.name!r}, which has "
            f"class folders, there is {_some(foreign)}: name it val or test, or give {train.path}"
        )
    unused = [f"the folder {each.path}" for each in others]
    return _found(
        _classes(train), test and _classes(test), [*unused, *_loose(root), *_loose(train)]
    )


def _found(train: Split, test: Split | None, unused: Sequence[str]) -> Found:
    """With what is held out for testing if there is nothing else, and with the notes."""
    skipped = train.skipped + (test.skipped if test else Counter())
    if test:
        _check_same(train, test)
        notes = [
            f"train: {train.total} images of {len(train.images)} classes in {train.root}",
            f"test: {test.total} images in {test.root}",
        ]
    else:
        train, test = _hold_out(train)
        notes = [
            f"train: {train.total} images of {len(train.images)} classes in {train.root}",
            f"test: {test.total} images held out of these, a fifth of each class",
        ]
    left = [*unused, *([in_words(skipped)] if skipped else [])]
    return Found(train, test, [*notes, *(f"not used: {each}" for each in left)])


def _hold_out(split: Split) -> tuple[Split, Split]:
    """Without a fifth of each class, and that fifth; the same each time."""
    few = [name for name, paths in split.images.items() if len(paths) < 2]
    if few:
        raise InputError(
            f"too few images in {split.root} to hold some out for testing: expected two or more of "
            f"each class, got one of {_some(few)}"
        )
    draw = Random(0)
    train, test = {}, {}
    for name, paths in split.images.items():
        held = set(draw.sample(paths, max(1, round(len(paths) * HELD_OUT))))
        train[name] = [path for path in paths if path not in held]
        test[name] = [path for path in paths if path in held]
    return split._replace(images=train), split._replace(images=test)


def role_of(name: str) -> str | None:
    """The split that the name of a folder stands for, None for a class."""
    for role, names in SPLITS.items():
        if re.fullmatch(f"({names})[ _.-]?((data)?set|data|images|imgs)?", name.casefold()):
            return role
    return None


def _split(root: Folder, role: str) -> Folder | None:
    """The folder of a split; it has class folders, while a class of that name has images."""
    found = [
        each
        for each in root.folders
        if role_of(each.name) == role
        and sum(inner.has_images() for inner in each.folders) > bool(each.images)
    ]
    if len(found) > 1:
        names = _some([each.name for each in found])
        raise InputError(f"expected one folder of {role} images in {root.path}, got {names}")
    return found[0] if found else None


def _classes(root: Folder) -> Split:
    """The images of the class folders, at any depth."""
    images = {
        each.name: [path for folder in each.walk() for path in folder.images]
        for each in root.folders
    }
    split = Split(root.path, images, root.all_skipped())
    if len(images) < 2:
        one = next(iter(root.folders), None)
        inside = one and sum(map(Folder.has_images, one.folders)) > 1
        hint = f"; is it {one.path}?" if one and inside else ""
        raise InputError(
            f"expected one folder of images per class, two classes or more, in {root.path}, got "
            f"{_some(list(images))}{hint}"
        )
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        raise InputError(
            f"expected one folder of images per class in {root.path}, found no images in "
            f"{_some(empty)}{_instead(root)}"
        )
    return split


def _check_classes(root: Folder) -> None:
    """Refuse splits that would be taken for classes."""
    advice = "name splits train and val or test, with one folder per class in each"
    names = [each.name for each in root.folders]
    if len({role_of(name) for name in names} - {None}) > 1:
        raise InputError(
            f"expected one folder of images per class in {root.path}, got {_some(names)}: {advice}"
        )
    inner = {
        each.name: {f.name for f in each.walk() if f.images} - {each.name} for each in root.folders
    }
    nested = {name: folders for name, folders in inner.items() if len(folders) > 1}
    for a, b in combinations(nested, 2):
        if len(shared := nested[a] & nested[b]) > 1:
            raise InputError(
                f"expected one folder of images per class in {root.path}, but {a} and {b} both "
                f"have folders {_some(sorted(shared))}: {advice}; if these are no classes, put the "
                "images of each class into one folder"
            )


def _check_same(train: Split, test: Split) -> None:
    if list(train.images) == list(test.images):
        return
    parts = [(train.root, set(train.images) - set(test.images))]
    parts += [(test.root, set(test.images) - set(train.images))]
    only = "; ".join(f"{_some(sorted(names))} only in {root}" for root, names in parts if names)
    raise InputError(f"expected the same classes in {train.root} and {test.root}, got {only}")


def _loose(root: Folder) -> list[str]:
    """Images that are beside class folders."""
    return [f"{len(root.images)} images beside the folders in {root.path}"] if root.images else []


def _instead(root: Folder | None) -> str:
    """What is there where images should be, for the end of a message."""
    skipped = root.all_skipped() if root else None
    return f"; there are {in_words(skipped)}" if skipped else ""


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(map(repr, names[:SHOWN])) or "none") + more
