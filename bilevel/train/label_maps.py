"""Label maps of the training images of some data, by a teacher, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bilevel.errors import InputError
from bilevel.train import workers
from bilevel.train.data import Originals, length
from bilevel.train.loader import Unreadable
from bilevel.train.token_labels import maps
from bilevel.train.token_labels.maps import MadeFrom
from bilevel.train.token_labels.teacher import Teacher, weights_hash


class Made(NamedTuple):
    """What there is at the end."""

    made_from: MadeFrom
    before: int
    """Maps that an earlier call had made."""
    unreadable: Unreadable
    """The images that could not be read. Their maps are zero; training reads no such image, and
    none of their maps."""


def make(
    teacher: Teacher,
    name: str,
    data: Originals,
    path: Path,
    batch_size: int = 64,
    device: str = "cpu",
    num_workers: int = 0,
    shown: Callable[[int], None] = lambda done: None,
) -> Made:
    """Make a file of label maps, or go on where an earlier call was ended.

    Parameters
    ----------
    teacher
        Of the same classes as the data, in their order.
    name
        By which the file tells of it.
    data
        The training images.
    path
        The file, ``.npy``; see :func:`bilevel.train.token_labels.maps.write`.
    batch_size
        Images that the teacher sees at a time.
    device
        Where it computes, as torch calls it.
    num_workers
        Processes that read images.
    shown
        Called with the number of maps that are done.

    Raises
    ------
    InputError
        If the teacher has another number of classes, or cannot look at each place; if images of
        another name, by another teacher are there; if the file cannot be written, or more than 1 %
        of the images cannot be read.
    """
    classes = int(getattr(teacher.model, "num_classes", 0))
    if classes != len(data.classes):
        raise InputError(
            f"expected a teacher of the {len(data.classes)} classes of the data, got one of "
            f"{classes}"
        )
    model = teacher.model.to(device)
    unreadable = Unreadable()
    seen = _Seen(data.images, teacher)

    def by_batch(first: int) -> Iterator[np.ndarray]:
        rest = range(first, length(data.images))
        for batch in _read(seen, rest, batch_size, num_workers):
            unreadable.update(batch.unreadable)
            unreadable.check(length(data.images))
            found = teacher.maps(batch.inputs.to(device))
            found[~batch.read] = 0
            yield found.numpy()
            shown(batch.last + 1)

    size = tuple(teacher.maps(seen.blank()[None].to(device)).shape[3:])
    made_from = MadeFrom(
        teacher=name,
        weights=weights_hash(model),
        image_size=teacher.image_size,
        map_size=(size[0], size[1]),
        classes=tuple(data.classes),
        images=length(data.images),
        names=maps.names_hash(data.names),
    )
    before = maps.write(path, made_from, by_batch, batch_size)
    return Made(made_from, before, unreadable)


def _read(
    seen: _Seen, indices: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[_Batch]:
    starts = range(0, len(indices), batch_size)
    loader = DataLoader(
        seen,
        batch_sampler=[list(indices[i : i + batch_size]) for i in starts],
        num_workers=num_workers,
        worker_init_fn=workers.end_at_errors,
        collate_fn=_collated,
    )
    return workers.each(loader)


class _Batch(NamedTuple):
    inputs: Tensor
    read: Tensor
    """Which of them could be read, boolean ``(N,)``."""
    last: int
    unreadable: dict[int, str]


class _Seen(Dataset[tuple[int, Tensor, str]]):
    """Images as the teacher sees them, with their numbers; blank ones where there are reasons why
    they cannot be read."""

    def __init__(self, images: Dataset[Tensor], teacher: Teacher) -> None:
        self._images = images
        self._inputs = teacher.inputs
        self._shape = (teacher.in_chans, teacher.image_size, teacher.image_size)

    def blank(self) -> Tensor:
        return torch.zeros(self._shape)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str]:
        try:
            image = self._images[index]
        except InputError as error:
            return index, self.blank(), str(error)
        return index, self._inputs(image), ""


def _collated(items: list[tuple[int, Tensor, str]]) -> _Batch:
    reasons = {index: reason for index, _, reason in items if reason}
    read = torch.tensor([not reason for _, _, reason in items])
    return _Batch(torch.stack([x for _, x, _ in items]), read, items[-1][0], reasons)
