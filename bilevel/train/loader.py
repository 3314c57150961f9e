"""From a dataset to batches on a device: in the order of a plan to train, in its own to test."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from bilevel.errors import InputError
from bilevel.train import draws, workers
from bilevel.train.augment import erase
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch, Data, Normalisation, length
from bilevel.train.plan import Plan, Sample, erasing_seed, sample_seed, stand_in

MOST_UNREADABLE = 0.01
"""The share of the images that may be unreadable; more of them stop a run."""
ATTEMPTS = 100
"""Images that are tried in the place of one that cannot be read."""
SHOWN = 5
"""Unreadable images that an error names."""


class _Read(NamedTuple):
    """What a worker hands over: images and labels, None if there are none, and what could not be
    read, by the image's number, with the reason."""

    images: Any
    labels: Any
    unreadable: Mapping[int, str]


class Unreadable(dict[int, str]):
    """The images that could not be read, by their numbers, with the reasons."""

    def are_too_many(self, images: int) -> bool:
        """Whether these are too many of so many images."""
        return len(self) > MOST_UNREADABLE * images

    def check(self, images: int) -> None:
        """Raise InputError if these are too many of so many images."""
        if self.are_too_many(images):
            raise InputError(self.in_words(images))

    def in_words(self, images: int) -> str:
        """How many there are, and the first of them."""
        first = "; ".join(self[index] for index in sorted(self)[:SHOWN])
        more = f"; and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return f"{len(self)} of {images} images cannot be read: {first}{more}"


def plan_of(config: TrainConfig, data: Data, ranks: int = 1, rank: int = 0) -> Plan:
    """The plan of a run on its data, as a rank has it.

    Raises InputError if so many ranks cannot share a batch.
    """
    images = length(data.train)
    return Plan(config.seed, images, config.batch_size, config.aug_repeats, ranks, rank)


class Planned:
    """Training batches of a rank, as its plan has them, from any step on.

    The workers stay for the whole run, and read ahead over the end of an epoch. Where an image
    cannot be read, another one stands, the same one each time, so that batches keep their size.
    """

    def __init__(self, data: Data, plan: Plan, config: TrainConfig) -> None:
        self.plan, self.config = plan, config
        self.unreadable = Unreadable()
        """What was met so far, in the steps that were given out."""
        self._normalise = data.normalise
        self._dataset = _Planned(data.train, plan.seed)

    def steps(self, begin: int, end: int) -> Generator[Batch]:
        """The batches of the steps from ``begin`` to before ``end``.

        Raises InputError if an image cannot be read, nor any of many others in its place.
        """
        samples = (self.plan.samples(step) for step in range(begin, end))
        loader = _loader(self._dataset, self.config, batch_sampler=_Once(samples))
        for step, read in enumerate(workers.each(loader), begin):
            self.unreadable.update(read.unreadable)
            yield self._erased(_on_device(read, self._normalise, self.config.device), step)

    def _erased(self, batch: Batch, step: int) -> Batch:
        """The batch of a step, with what the config erases of each image."""
        if self.config.reprob:
            seeds = [erasing_seed(self.plan.seed, each) for each in self.plan.samples(step)]
            erase(batch.images, seeds, self.config.reprob, self.config.remode)
        return batch

    def global_batch(self, step: int) -> Batch:
        """What all ranks read for a step, on the CPU and as it was read."""
        read = _collated([self._dataset[sample] for sample in self.plan.global_samples(step)])
        return Batch(read.images, read.labels)


class Waiting:
    """Batches, and how much of the time the host waits for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._begin, self._waited = batches, time.perf_counter(), 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited += time.perf_counter() - begin

    def share(self) -> float:
        """From 0 to 1, since it was made."""
        return self._waited / (time.perf_counter() - self._begin)


class InOrder:
    """Test batches of a rank, every ``ranks``-th image, as often as asked for: no image is in two
    ranks, and none is left out but those that cannot be read. Nothing in them is random, so the
    workers stay from one time to the next."""

    def __init__(self, data: Data, config: TrainConfig, ranks: int = 1, rank: int = 0) -> None:
        self.images = length(data.test)
        self.unreadable = Unreadable()
        self._normalise, self._device = data.normalise, config.device
        indices = range(rank, self.images, ranks)
        batches = [
            indices[i : i + config.batch_size] for i in range(0, len(indices), config.batch_size)
        ]
        self._loader = _loader(
            _Tolerant(data.test),
            config,
            batch_sampler=batches,
            persistent_workers=config.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        for read in workers.each(self._loader):
            self.unreadable.update(read.unreadable)
            self.unreadable.check(self.images)
            if read.images is not None:
                yield _on_device(read, self._normalise, self._device)


class _Once(Iterable[list[Sample]]):
    """Batches of samples that a loader goes through once."""

    def __init__(self, samples: Iterator[list[Sample]]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[list[Sample]]:
        return self._samples


class _Planned(Dataset[Any]):
    """By samples of a plan: each is augmented from a seed of its own."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitem__(self, sample: Sample) -> tuple[Any, dict[int, str]]:
        unreadable: dict[int, str] = {}
        index = sample.image
        for attempt in range(1, ATTEMPTS + 1):
            draws.seed_all(sample_seed(self._seed, sample.epoch, sample.position))
            try:
                return self._dataset[index], unreadable
            except InputError as error:
                unreadable[index] = str(error)
                index = stand_in(self._seed, sample, attempt, length(self._dataset))
        reason = unreadable[sample.image]
        raise InputError(f"{ATTEMPTS} images in a row cannot be read, the first: {reason}")


class _Tolerant(Dataset[Any]):
    """By numbers; what cannot be read is left out."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> tuple[Any, dict[int, str]]:
        try:
            return self._dataset[index], {}
        except InputError as error:
            return None, {index: str(error)}


def _loader(dataset: Dataset[Any], config: TrainConfig, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=config.workers,
        worker_init_fn=workers.end_at_errors,
        collate_fn=_collated,
        pin_memory=torch.device(config.device).type == "cuda",
        generator=torch.Generator(),  # else torch's own moves on
        **options,
    )


def _collated(items: list[tuple[Any, dict[int, str]]]) -> _Read:
    pairs = [pair for pair, _ in items if pair is not None]
    unreadable = {index: reason for _, each in items for index, reason in each.items()}
    images, labels = default_collate(pairs) if pairs else (None, None)
    return _Read(images, labels, unreadable)


def _on_device(read: _Read, normalise: Normalisation, device: str) -> Batch:
    batch = Batch(read.images, read.labels).to(device)
    return batch._replace(images=normalise(batch.images))
