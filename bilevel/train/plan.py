"""What a run draws, and where: functions of its seed, an epoch, a position, a step and a rank.

Nothing random has a state that goes on. Each image is augmented from a seed of its own, and each
step draws from its own, so the same run draws the same bits with any number of workers and of
ranks, and goes on from any step without a word on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.errors import InputError

ROUND = 256
"""With repeated augmentation, an epoch ends after as many positions as there are images, rounded
down to a multiple of this: as in the official sampler, of which it gives the steps, 1251 of 1024
images for ImageNet."""


class Sample(NamedTuple):
    """Which image stands where; epochs count from 0 here."""

    epoch: int
    position: int
    image: int


@dataclass(frozen=True)
class Plan:
    """The order of training images over all epochs, and which of them a rank reads.

    Position p of an epoch holds image ``order[p // repeats]`` of a permutation that is the epoch's
    own. A global batch is ``batch`` positions in a row; what is left at the end of an epoch and
    fills none is left out, unless it is all there is. Rank r of W reads the positions that are r
    modulo W.
    """

    seed: int
    images: int
    batch_size: int
    """Images of a step, on all ranks together."""
    repeats: int = 1
    """How often an image is drawn in a row, each time augmented anew (repeated augmentation)."""
    ranks: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        check_batch(self.batch, self.ranks)

    @property
    def positions(self) -> int:
        """Of an epoch, also of those that fill no batch."""
        rounded = self.repeats > 1 and self.images >= ROUND
        return self.images // ROUND * ROUND if rounded else self.images

    @property
    def batch(self) -> int:
        """Images of a step, on all ranks together: fewer than asked for if there are no more."""
        return min(self.batch_size, self.positions)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch."""
        return self.positions // self.batch

    def rows(self) -> list[int]:
        """The rank's rows of each global batch, in its order."""
        return rows(self.batch, self.ranks, self.rank)

    def samples(self, step: int) -> list[Sample]:
        """What the rank reads for a step, in the order of :func:`rows`."""
        return self._samples(step, self.rows())

    def global_samples(self, step: int) -> list[Sample]:
        """What all ranks read for a step, in the order of one rank that reads all."""
        return self._samples(step, rows(self.batch, 1, 0))

    def _samples(self, step: int, chosen: Sequence[int]) -> list[Sample]:
        epoch, step = divmod(step, self.steps_per_epoch)
        order = permutation(self.seed, epoch, self.images)
        positions = [step * self.batch + row for row in chosen]
        return [Sample(epoch, p, int(order[p // self.repeats])) for p in positions]


def rows(batch: int, ranks: int, rank: int) -> list[int]:
    """The rows of a global batch that a rank has, in its order.

    The rows r modulo W, the first half of them upward and the second half downward. So, whatever
    the number of ranks, to turn a rank's images around (as timm's Mixup does, which mixes a batch
    with its reverse) pairs row p with row p + batch / 2, for even batches.

    >>> rows(8, 1, 0)
    [0, 1, 2, 3, 7, 6, 5, 4]
    >>> rows(8, 2, 1)
    [1, 3, 7, 5]

    Raises InputError if the batch cannot be divided so.
    """
    check_batch(batch, ranks)
    mine = list(range(rank, batch, ranks))
    half = len(mine) // 2
    return [*mine[:half], *reversed(mine[half:])]


def check_batch(batch: int, ranks: int) -> None:
    """Raise InputError unless several ranks can share a batch: each has as many images, an even
    number of them, since those that are mixed with each other must be on one rank."""
    if ranks > 1 and batch % (2 * ranks):
        raise InputError(
            f"expected batches that {ranks} processes can share, a multiple of {2 * ranks} images, "
            f"got {batch}; give another --batch-size, or start another number of processes"
        )


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, images: int) -> Tensor:
    """The order of the images in an epoch, int64 ``(images,)``."""
    return torch.randperm(images, generator=generator(seed, "order", epoch))


def sample_seed(seed: int, epoch: int, position: int) -> int:
    """From which an image is augmented."""
    return hashed(seed, "sample", epoch, position)


def erasing_seed(seed: int, sample: Sample) -> int:
    """From which it is drawn what is erased of an image, on the device that trains."""
    return hashed(seed, "erase", sample.epoch, sample.position)


def step_seed(seed: int, step: int) -> int:
    """From which a step draws what concerns the whole global batch, such as how it is mixed: the
    same on every rank."""
    return hashed(seed, "step", step)


def branches(seed: int, step: int, modules: int, batch: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 ``(modules, batch)``: by them the modules for stochastic
    depth choose for each row of a global batch."""
    return torch.rand(modules, batch, generator=generator(seed, "branches", step))


def stand_in(seed: int, sample: Sample, attempt: int, images: int) -> int:
    """The image that is read where that of a sample cannot be; ``attempt`` counts from 1."""
    return hashed(seed, "stand-in", sample.epoch, sample.position, attempt) % images


def generator(seed: int, subject: str, *numbers: int) -> torch.Generator:
    """A new generator on the CPU for one subject of a run."""
    return torch.Generator().manual_seed(hashed(seed, subject, *numbers))


def hashed(seed: int, subject: str, *numbers: int) -> int:
    """63 bits for a subject of a run; those of any two subjects have nothing in common."""
    digest = blake2b(repr((seed, subject, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
