"""Batches: the same bits for any number of workers and ranks, from any step on; what cannot be
read is replaced, counted and named."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from bilevel import InputError
from bilevel.train import data
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch, Data
from bilevel.train.loader import InOrder, Planned, plan_of

# With all that is drawn for single images.
CONFIG = TrainConfig(
    data="",
    image_size=32,
    batch_size=4,
    workers=0,
    train_interpolation="random",
    aa="rand-m9-mstd0.5-inc1",
    reprob=0.5,
)


@pytest.fixture(scope="module")
def found(stripes: Path) -> Data:
    return data.find(replace(CONFIG, data=str(stripes)))


def read(
    found: Data, begin: int, end: int, config: TrainConfig = CONFIG, ranks: int = 1, rank: int = 0
) -> list[Batch]:
    return list(Planned(found, plan_of(config, found, ranks, rank), config).steps(begin, end))


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, y) for pair in pairs for x, y in zip(*pair, strict=True))


def test_batches_are_the_same_bits_for_any_number_of_workers_and_from_any_step(
    found: Data,
) -> None:
    whole = read(found, 0, 10)
    assert len(whole) == 10
    assert not torch.equal(whole[0].images, whole[4].images)  # in the second epoch anew
    assert same(read(found, 3, 10, replace(CONFIG, workers=2)), whole[3:])
    assert same(read(found, 9, 10), whole[9:])
    assert not same(read(found, 0, 10, replace(CONFIG, seed=1)), whole)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_read_the_bits_that_one_reads(found: Data, ranks: int) -> None:
    config = replace(CONFIG, batch_size=8, aug_repeats=2)
    plan = plan_of(config, found)
    (alone,) = read(found, 1, 2, config)
    images = dict(zip(plan.rows(), alone.images, strict=True))
    for rank in range(ranks):
        (mine,) = read(found, 1, 2, config, ranks, rank)
        for row, image in zip(plan_of(config, found, ranks, rank).rows(), mine.images, strict=True):
            assert torch.equal(image, images[row])


def test_a_repeated_image_is_augmented_anew(found: Data) -> None:
    config = replace(CONFIG, aug_repeats=2)
    first = plan_of(config, found).samples(0)
    (batch,) = read(found, 0, 1, config)
    assert first[0].image == first[1].image
    assert not torch.equal(batch.images[0], batch.images[1])


@pytest.mark.parametrize("size", [3, 5, 16, 17])
def test_the_steps_of_an_epoch_are_the_batches_of_it(size: int, found: Data) -> None:
    config = replace(CONFIG, batch_size=size)
    steps = plan_of(config, found).steps_per_epoch
    labels = [x for batch in read(found, 0, steps, config) for x in batch.labels.tolist()]
    assert len(labels) == 16 // min(size, 16) * min(size, 16)


def test_workers_change_no_test_image_and_stay(found: Data) -> None:
    alone, shared = InOrder(found, CONFIG), InOrder(found, replace(CONFIG, workers=1))
    state = torch.get_rng_state()
    processes = []
    for _ in range(2):
        assert same(list(alone), list(shared))
        processes.append({child.pid for child in multiprocessing.active_children()})
    assert processes[0] == processes[1]
    assert len(processes[0]) == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_the_workers_of_training_stay_over_epochs(found: Data) -> None:
    config = replace(CONFIG, workers=1)
    batches = Planned(found, plan_of(config, found), config).steps(0, 12)
    seen = {tuple(child.pid for child in multiprocessing.active_children()) for _ in batches}
    assert len(seen) == 1
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_test_image_is_seen_once_by_one_rank(found: Data, ranks: int) -> None:
    config = replace(CONFIG, batch_size=3)
    parts = [list(InOrder(found, config, ranks, rank)) for rank in range(ranks)]
    images = torch.cat([batch.images for part in parts for batch in part])
    every: Any = found.test
    expected = torch.stack([found.normalise(every[i][0]) for part in range(ranks)
                            for i in range(part, 4, ranks)])  # fmt: skip
    assert torch.equal(images, expected)
    again = [list(InOrder(found, config, ranks, rank)) for rank in range(ranks)]
    assert all(same(a, b) for a, b in zip(parts, again, strict=True))


class Broken(Dataset[tuple[torch.Tensor, int]]):
    """Images that are their numbers, of which some cannot be read."""

    def __init__(self, images: int, broken: set[int]) -> None:
        self.images, self.broken = images, broken

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index in self.broken:
            raise InputError(f"cannot read the image {index}.png: it is broken")
        return torch.full((3, 2, 2), float(index)), index


def broken_data(images: int, broken: set[int]) -> Data:
    return Data(["a", "b"], 3, Broken(images, broken), Broken(images, broken))


def test_an_unreadable_image_is_replaced_by_the_same_other_one_counted_and_named() -> None:
    found, config = broken_data(400, {7, 250}), replace(CONFIG, batch_size=8)
    alone = Planned(found, plan_of(config, found), config)
    whole = list(alone.steps(0, 50))
    assert {len(batch.labels) for batch in whole} == {8}
    labels = [x for batch in whole for x in batch.labels.tolist()]
    assert len(set(labels)) == 398
    assert set(labels).isdisjoint({7, 250})
    assert set(alone.unreadable) == {7, 250}
    assert "2 of 400 images cannot be read: cannot read the image 7.png" in (
        alone.unreadable.in_words(400)
    )
    by_row = dict(zip(alone.plan.rows(), whole[20].labels.tolist(), strict=True))
    for rank in range(2):
        plan = plan_of(config, found, 2, rank)
        shared = Planned(found, plan, replace(config, workers=1))
        batches = list(shared.steps(20, 21))
        assert batches[0].labels.tolist() == [by_row[row] for row in plan.rows()]


def test_an_unreadable_test_image_is_left_out() -> None:
    test = InOrder(broken_data(400, {0, 1, 2, 3}), CONFIG)
    labels = [x for batch in test for x in batch.labels.tolist()]
    assert labels == list(range(4, 400))
    assert set(test.unreadable) == {0, 1, 2, 3}


@pytest.mark.parametrize("workers", [0, 1])
def test_where_none_can_be_read_it_is_said(workers: int) -> None:
    found = broken_data(8, set(range(8)))
    with pytest.raises(InputError, match=r"100 images in a row cannot be read, the first: cannot"):
        read(found, 0, 1, replace(CONFIG, workers=workers))
