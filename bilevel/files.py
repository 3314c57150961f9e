"""Files that are never half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from bilevel.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of ``path`` at the end, if nothing went wrong.

    Raises InputError if a folder is in that place.
    """
    if path.is_dir():
        raise InputError(f"expected a file or nothing at {path}, found a folder; move it away")
    partial = path.with_name(_partial_name(path))
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # some disks say only now that they are full
        partial.replace(path)
    finally:
        with suppress(OSError):  # what went wrong says more
            partial.unlink()


def _partial_name(path: Path) -> str:
    """A hidden name of the same suffix, which says the format; a short one if it would be too
    long."""
    name, longest = f".{path.stem}.partial{path.suffix}", _longest_name(path.parent)
    if len(os.fsencode(name)) <= longest:
        return name
    short = f".{sha256(os.fsencode(path.name)).hexdigest()[:16]}.partial"
    return short + path.suffix if len(os.fsencode(short + path.suffix)) <= longest else short


def _longest_name(folder: Path) -> int:
    """Bytes in the longest name that a folder can have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # no such question, or no such folder
        return 255
