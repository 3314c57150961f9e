"""Files that are never half-written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from bilevel.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of ``path`` at the end, if nothing went wrong."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def new_folder(wanted: Path | None, name: str) -> Path:
    """Create the folder of a run: the one wanted, else the next free ``runs/name-number``.

    Raises InputError if the one wanted exists, so that no run is overwritten, or if the folder
    cannot be created.
    """
    numbered = (Path("runs", f"{name}-{number}") for number in count(1))
    folder = wanted or next(path for path in numbered if not path.exists())
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot create the folder of the run {folder}: {error}") from error
    return folder
