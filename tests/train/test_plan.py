"""The plan: every position is read once, whatever the ranks, and what is random has no state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from bilevel import InputError
from bilevel.train.plan import (
    Plan,
    branches,
    hashed,
    permutation,
    rows,
    sample_seed,
    stand_in,
    step_seed,
)

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6)).map(lambda x: (x[0], 2 * x[0] * x[1]))


@given(SHAPES)
def test_ranks_share_a_batch_without_a_rest(shape: tuple[int, int]) -> None:
    ranks, batch = shape
    shares = [rows(batch, ranks, rank) for rank in range(ranks)]
    assert sorted(row for share in shares for row in share) == list(range(batch))
    assert {row % ranks for row in shares[-1]} == {ranks - 1}
    assert len({len(share) for share in shares}) == 1


@given(SHAPES)
def test_turning_a_share_around_pairs_the_same_rows_for_every_number_of_ranks(
    shape: tuple[int, int],
) -> None:
    ranks, batch = shape
    for rank in range(ranks):
        share = rows(batch, ranks, rank)
        for row, other in zip(share, reversed(share), strict=True):
            assert other == (row + batch // 2) % batch


@given(st.integers(1, 50), st.integers(1, 30), st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_an_epoch_holds_each_image_once_but_for_a_rest(
    images: int, batch: int, epochs: int, seed: int
) -> None:
    plan = Plan(seed, images, batch)
    assert plan.batch == min(batch, images)
    assert plan.steps_per_epoch == images // plan.batch
    for epoch in range(epochs):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        samples = [sample for step in steps for sample in plan.samples(step)]
        assert len({sample.image for sample in samples}) == len(samples)
        assert {sample.epoch for sample in samples} == {epoch}
        assert sorted(sample.position for sample in samples) == list(range(len(samples)))
        assert images - len(samples) < plan.batch


@given(st.integers(4, 600), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_ranks_read_together_what_one_reads_alone(images: int, repeats: int, ranks: int) -> None:
    alone = Plan(3, images, 8, repeats) if images >= 8 else Plan(3, 8, 8, repeats)
    shared = [Plan(3, alone.images, 8, repeats, ranks, rank) for rank in range(ranks)]
    for step in (0, 1, alone.steps_per_epoch, 2 * alone.steps_per_epoch + 1):
        together = [sample for plan in shared for sample in plan.samples(step)]
        assert sorted(together) == sorted(alone.samples(step))
        assert shared[-1].global_samples(step) == alone.samples(step)


@pytest.mark.parametrize("images", [256, 1000, 1281])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_repeated_augmentation_is_that_of_the_official_sampler(images: int, ranks: int) -> None:
    """As many steps, and the same assignment of places in the epoch's order to ranks."""
    batch = 16
    official: Any = RepeatAugSampler([0] * images, num_replicas=ranks, rank=ranks - 1)
    plan = Plan(0, images, batch, repeats=3, ranks=ranks, rank=ranks - 1)
    assert plan.steps_per_epoch == len(official) // (batch // ranks)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0)).tolist()
    place = {image: i for i, image in enumerate(order)}
    theirs = [place[image] for image in official]
    own = permutation(0, 0, images).tolist()
    samples = sorted(s for step in range(plan.steps_per_epoch) for s in plan.samples(step))
    ours = [own.index(sample.image) for sample in samples]
    assert ours == theirs[: len(ours)]
    assert len(ours) + batch // ranks > len(theirs)
    assert max(Counter(own.index(s.image) for s in samples).values()) <= 3


def test_imagenet_has_1251_steps_of_1024_images() -> None:
    assert Plan(0, 1281167, 1024, repeats=3).steps_per_epoch == 1251


@pytest.mark.parametrize(("batch", "ranks"), [(6, 2), (7, 2), (12, 4), (2, 2)])
def test_a_batch_that_ranks_cannot_share_is_refused(batch: int, ranks: int) -> None:
    with pytest.raises(InputError, match=f"{ranks} processes can share, a multiple of {2 * ranks}"):
        Plan(0, 100, batch, ranks=ranks)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_one_rank_takes_any_batch(batch: int) -> None:
    assert sorted(rows(batch, 1, 0)) == list(range(batch))


def test_what_is_drawn_has_no_state_and_differs_by_all_that_it_depends_on() -> None:
    seeds = [sample_seed(*x) for x in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0))]
    seeds += [step_seed(0, 0), step_seed(0, 1), hashed(0, "order", 0), hashed(0, "branches", 0)]
    assert len(set(seeds)) == len(seeds) - 1
    assert all(0 <= seed < 2**63 for seed in seeds)
    before = torch.get_rng_state()
    a, b, other = (branches(1, step, 5, 1000) for step in (7, 7, 8))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert not torch.equal(permutation(0, 0, 99), permutation(0, 1, 99))
    assert torch.equal(before, torch.get_rng_state())
    assert float(a.min()) >= 0
    assert float(a.max()) < 1
    assert a.mean().item() == pytest.approx(0.5, abs=0.02)


def test_stand_ins_are_other_images_in_other_attempts() -> None:
    sample = Plan(0, 1000, 10).samples(0)[0]
    tried = [stand_in(0, sample, attempt, 1000) for attempt in range(1, 50)]
    assert tried == [stand_in(0, sample, attempt, 1000) for attempt in range(1, 50)]
    assert len(set(tried)) > 40
    assert set(tried) <= set(range(1000))
