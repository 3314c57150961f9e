"""Label maps of all training images in one file, which is memory-mapped: 8.3 GB for ImageNet at
18 x 18, of which a step reads what it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.train.token_labels.targets import BEST

DTYPE = np.dtype("<f2")
MOST_CLASSES = 2048
"""As many as float16 can number."""
SUFFIX = ".npy"


@dataclass(frozen=True)
class MadeFrom:
    """What label maps were made from, which lies beside them as JSON."""

    teacher: str
    """By the name that was given."""
    weights: str
    """SHA-256 of its parameters."""
    image_size: int
    """Height and width of the images that it saw."""
    map_size: tuple[int, int]
    """Rows and columns of its last map."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of its outputs."""
    images: int
    """How many images there are."""
    names: str
    """SHA-256 of their names in their order; see :func:`names_hash`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_size", tuple(self.map_size))
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all maps."""
        return (self.images, 2, BEST, *self.map_size)


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 of the names of images in their order."""
    return sha256("\n".join(names).encode()).hexdigest()


class LabelMaps:
    """The maps in a file, by the number of the image. It may be handed to other processes, which
    map the file themselves.

    Raises InputError if there is no such file, or it is not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.made_from = _read(_json(self.path))
        if self._array.shape != self.made_from.shape or self._array.dtype != DTYPE:
            raise InputError(
                f"expected {DTYPE} {self.made_from.shape} in {self.path}, as "
                f"{_json(self.path).name} says, got {self._array.dtype} {self._array.shape}"
            )

    def __len__(self) -> int:
        return self.made_from.images

    def __getitem__(self, index: int) -> Tensor:
        """The map of an image, float16 ``(2, 5, H, W)``."""
        return torch.from_numpy(np.array(self._array[index]))

    def check(self, classes: Sequence[str], names: str) -> None:
        """Raise InputError unless the maps are of images of these names (by their hash), and of
        these classes."""
        for what, found, expected in (
            ("classes", self.made_from.classes, tuple(classes)),
            ("images", self.made_from.names, names),
        ):
            if found != expected:
                raise InputError(
                    f"expected label maps of the training images, got {self.path}, whose {what} "
                    f"are others ({self.made_from.images} images of "
                    f"{len(self.made_from.classes)} classes); make them of this data with "
                    "bilevel label-maps"
                )

    @cached_property
    def _array(self) -> np.ndarray[Any, Any]:
        try:
            return np.load(self.path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"expected label maps in {self.path}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_array"}


def write(
    path: Path,
    made_from: MadeFrom,
    maps: Callable[[int], Iterable[np.ndarray[Any, Any]]],
    at_once: int,
) -> int:
    """Make a file of label maps, or go on where an earlier call was ended. The file is there once
    it is whole; before, what is done lies beside it.

    Parameters
    ----------
    path
        The file, ``.npy``; beside it goes a ``.json``.
    made_from
        What the maps are made from.
    maps
        From the number of the image to begin with to the maps of that and all others, in arrays
        ``(at most at_once, 2, 5, H, W)``.
    at_once
        Maps that are written at a time.

    Returns
    -------
    int
        How many maps were there already.

    Raises
    ------
    InputError
        If the path does not end in ``.npy``, if there are other maps, begun or whole, or if the
        file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"expected a file {SUFFIX} for label maps, got {path}")
    partial = path.with_name(f".{path.stem}.partial{SUFFIX}")
    try:
        if path.exists():
            _check_same(path, made_from)
            return made_from.images
        done = _begin(path, partial, made_from, at_once)
        with partial.open("rb+") as file:
            file.seek(0, os.SEEK_END)
            for each in maps(done):
                file.write(np.ascontiguousarray(each, DTYPE).tobytes())
                file.flush()
                os.fsync(file.fileno())  # what was written before the last maps is on the disk
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write the label maps {path}: {error}") from error
    return done


def _begin(path: Path, partial: Path, made_from: MadeFrom, at_once: int) -> int:
    """Prepare the file to go on, and say how many maps it has."""
    header, row = _header(made_from), DTYPE.itemsize * int(np.prod(made_from.shape[1:]))
    size = partial.stat().st_size if partial.exists() else 0
    if size < len(header):
        if _json(path).exists():
            _read(_json(path))  # it is of label maps, and no other file is lost
        with replacing(_json(path)) as file:
            file.write_text(json.dumps(asdict(made_from), indent=2) + "\n", encoding="utf-8")
        partial.write_bytes(header)
        return 0
    _check_same(path, made_from)
    # The last ones that were written may not be whole.
    done = max(0, (size - len(header)) // row - at_once) // at_once * at_once
    os.truncate(partial, len(header) + done * row)
    return done


def _header(made_from: MadeFrom) -> bytes:
    """The beginning of the file in NumPy's format."""
    described = {"descr": DTYPE.str, "fortran_order": False, "shape": made_from.shape}
    with BytesIO() as file:
        np.lib.format.write_array_header_1_0(file, described)
        return file.getvalue()


def _check_same(path: Path, made_from: MadeFrom) -> None:
    there = _read(_json(path))
    names = [field.name for field in fields(made_from)]
    changed = [n for n in names if getattr(there, n) != getattr(made_from, n)]
    if changed:
        raise InputError(
            f"expected no label maps at {path}, or such as are being made; there are others, whose "
            f"{', '.join(changed)} differ: remove them, or write elsewhere"
        )


def _read(path: Path) -> MadeFrom:
    try:
        return MadeFrom(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"expected in {path} what label maps are made from: {error}") from error


def _json(path: Path) -> Path:
    return path.with_suffix(".json")
