"""What is in a folder of images, and what is left out: hidden files, and the runs themselves."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bilevel.errors import InputError

CONFIG, DATA = "config.json", "data.json"
ARCHITECTURE = "architecture"
"""Files and a field by which the folder of a run is known: what training wrote is no data."""

NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats whose names Pillow knows, but not how to read them without other programs."""


class Folder(NamedTuple):
    """A folder, without what is hidden and without folders of runs."""

    path: str
    images: Sequence[str]
    skipped: Counter[str]
    folders: Sequence[Folder]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.path)

    def walk(self) -> Iterator[Folder]:
        """The folder itself, and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_skipped(self) -> Counter[str]:
        """Files that are no images, at any depth, by the ends of their names."""
        return sum((folder.skipped for folder in self.walk()), Counter())

    def has_images(self) -> bool:
        """Whether there is an image in it, at any depth."""
        return any(folder.images for folder in self.walk())


def scan(path: str, above: tuple[str, ...] = ()) -> Folder | None:
    """What is in a folder; None if it is that of a run, or holds nothing but such folders."""
    try:
        with os.scandir(path) as entries:
            visible = sorted((each for each in entries if not _hidden(each.name)), key=_name)
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error}") from error
    if is_run(Path(path)):
        return None
    above = (*above, os.path.realpath(path))  # a link may lead back to where it is
    inner = [
        scan(each.path, above)
        for each in visible
        if each.is_dir() and os.path.realpath(each.path) not in above
    ]
    folders = [folder for folder in inner if folder is not None]
    files = [each.path for each in visible if each.is_file()]
    if inner and not folders and not files:
        return None
    images = [file for file in files if _suffix(file) in suffixes()]
    others = Counter(_suffix(file) or "without suffix" for file in files)
    return Folder(path, images, _without(others, suffixes()), folders)


@cache
def suffixes() -> frozenset[str]:
    """The ends of the names of image files that Pillow reads by itself."""
    formats = Image.registered_extensions()
    read = set(Image.OPEN) - NOT_DECODED
    return frozenset(suffix for suffix, name in formats.items() if name in read)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _hidden(name: str) -> bool:
    """Names that systems and programs give to what is not for people to see."""
    return name.startswith(".") or name == "__MACOSX"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _without(counts: Counter[str], names: frozenset[str]) -> Counter[str]:
    return Counter({name: count for name, count in counts.items() if name not in names})


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        return ARCHITECTURE in config and (path / DATA).is_file()
    except (OSError, ValueError, TypeError):
        return False


def in_words(skipped: Counter[str]) -> str:
    """Files that are no images, by the ends of their names, the most frequent first."""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())
    return f"files of other kinds: {counts}"
