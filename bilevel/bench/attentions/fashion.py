"""Fashion-MNIST (Xiao et al., 2017): 28 x 28 pixels, 10 classes, as tensors."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import InputError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""
CLASSES = 10
FILES = {"train": "train", "test": "t10k"}


class Split(NamedTuple):
    """Images uint8 ``(N, 1, 28, 28)`` and labels int64 ``(N,)``."""

    images: Tensor
    labels: Tensor


def read(folder: Path, split: str) -> Split:
    """The split ``"train"`` or ``"test"`` of the four files in a folder, as they are published.

    Raises InputError if they are not there, or are something else.
    """
    start = folder / FILES[split]
    images = _idx(start.with_name(f"{start.name}-images-idx3-ubyte.gz"), 3)
    labels = _idx(start.with_name(f"{start.name}-labels-idx1-ubyte.gz"), 1)
    return Split(images[:, None], labels.long())


def _idx(path: Path, axes: int) -> Tensor:
    """An array of bytes in the IDX format: two zeros, the type, the axes, their sizes, the data."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(
            f"expected Fashion-MNIST in {path.parent}, but {path.name} cannot be read ({error}); "
            "install Debian's package dataset-fashion-mnist, or say with --data where it is"
        ) from error
    header = 4 + 4 * axes
    sizes = np.frombuffer(content[4:header].ljust(4 * axes, b"\0"), ">u4").tolist()
    values = np.frombuffer(content[header:], np.uint8)
    if content[:4] != bytes((0, 0, 8, axes)) or values.size != np.prod(sizes):
        raise InputError(f"expected bytes in {axes} axes in the IDX format, got {path}")
    return torch.from_numpy(values.reshape(sizes).copy())
