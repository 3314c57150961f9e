"""Data sets by the names that timm has for them, such as ``torch/cifar10``, ``hfds/OWNER/NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import InputError

PREFIXES = ("torch", "hfds", "wds", "hfids", "tfds")
"""Kinds of data sets of timm; the last two only go from front to back, which training does not."""
USUAL = Path("data")
SPLITS = ("train", "validation")


class Named(NamedTuple):
    """The names of the classes, a data set of ``(image, label)``, its images of Pillow, and their
    mode there, ``L`` or ``RGB``."""

    classes: Sequence[str]
    found: Any
    mode: str

    def labelled(self, index: int) -> tuple[Tensor, int]:
        """An image, uint8 ``(C, H, W)``, and its label.

        Raises InputError if it cannot be read.
        """
        try:
            image, label = self.found[index]
            return pixels(image, self.mode), int(label)
        except (OSError, SyntaxError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot read the image {index}: {error}") from error


def is_name(data: str) -> bool:
    """Whether it is a name for timm, and not a folder."""
    prefix, slash, rest = data.partition("/")
    return bool(slash and rest) and prefix.lower() in PREFIXES and not Path(data).is_dir()


def read(name: str, folder: Path | None, download: bool) -> tuple[Named, Named]:
    """What there is to train on and to test on.

    Raises InputError if timm does not find it, or if it goes only from front to back.
    """
    from timm.data import create_dataset

    root, parts = folder or USUAL, []
    for split in SPLITS:
        try:
            found = create_dataset(name, str(root), split=split, download=download)
        except Exception as error:  # of whichever library has the data
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"cannot read {split!r} of {name!r} in {root} by timm: {reason}; --data-dir names "
                "its folder, and --dataset-download fetches what timm can fetch"
            ) from error
        if not hasattr(found, "__len__") or isinstance(found, torch.utils.data.IterableDataset):
            raise InputError(
                f"expected a data set whose images are found by their numbers, got {name!r}, which "
                "goes from front to back; use hfds/ or a folder"
            )
        grey = found[0][0].mode in ("1", "L")
        parts.append(Named(_classes(found), found, "L" if grey else "RGB"))
    train, test = parts[0], parts[1]._replace(mode=parts[0].mode)
    if list(train.classes) != list(test.classes):
        raise InputError(
            f"expected the same classes in {SPLITS[0]!r} and {SPLITS[1]!r} of {name!r}, got "
            f"{len(train.classes)} and {len(test.classes)}"
        )
    return train, test


def _classes(found: Any) -> list[str]:
    """Names of the classes, or their numbers where they have no names."""
    index = getattr(found, "class_to_idx", None) or getattr(
        getattr(found, "reader", None), "class_to_idx", None
    )
    if index:
        return [str(name) for name, _ in sorted(index.items(), key=lambda pair: pair[1])]
    if names := getattr(found, "classes", None):
        return list(map(str, names))
    return list(map(str, range(1 + max(int(found[i][1]) for i in range(len(found))))))


def pixels(image: Any, mode: str) -> Tensor:
    """An image of Pillow as uint8 ``(C, H, W)``: a view of its own order of memory."""
    array = np.array(image.convert(mode))
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1)
