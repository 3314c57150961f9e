"""The pieces of token labelling, beside what golden numbers tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from bilevel import ArgumentError, ShapeError
from bilevel.models.token_labels import TokenLogits, exchanged
from bilevel.train.token_labels import Targets, crop_box, draw_box, loss, places, targets
from tests.frameworks import FAKE_CUDA

CLASSES = 7


def label_maps(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """The five best of random logits."""
    draw = torch.Generator().manual_seed(seed)
    best = torch.randn(n, CLASSES, height, width, generator=draw, dtype=torch.float64).topk(5, 1)
    return torch.stack([best.values, best.indices.double()], 1)


def random_targets(n: int, size: int, seed: int = 0) -> Targets:
    draw = torch.Generator().manual_seed(seed)
    corner, extent = torch.rand(2, n, 2, generator=draw, dtype=torch.float64) / 2
    maps, boxes = label_maps(n, 9, 9, seed), torch.cat([corner, extent], 1)
    return targets(maps, boxes, torch.arange(n) % CLASSES, size, CLASSES, smoothing=0.1)


def random_logits(n: int, size: int) -> TokenLogits:
    draw = torch.Generator().manual_seed(1)
    pooled, *dense = torch.randn(1 + size * size, n, CLASSES, generator=draw, dtype=torch.float64)
    return TokenLogits(pooled, torch.stack(dense, 1).unflatten(1, (size, size)))


@given(
    n=st.integers(1, 4),
    size=st.integers(1, 8),
    map_size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_each_image_of_a_batch_has_the_targets_that_it_has_alone(
    n: int, size: int, map_size: tuple[int, int]
) -> None:
    maps, labels = label_maps(n, *map_size), torch.arange(n)
    boxes = torch.tensor([crop_box(i, 2 * i, 40, 30, 60, 50) for i in range(n)])
    whole = targets(maps, boxes, labels, size, CLASSES)
    for i in range(n):
        one = targets(maps[i : i + 1], boxes[i : i + 1], labels[i : i + 1], size, CLASSES)
        for found, expected in zip(one, whole, strict=True):
            torch.testing.assert_close(found, expected[i : i + 1])


@given(n=st.integers(1, 3), size=st.integers(1, 8), smoothing=st.floats(0, 1))
def test_targets_are_probabilities_and_the_teachers_are_raised_by_smoothing(
    n: int, size: int, smoothing: float
) -> None:
    boxes = torch.tensor([crop_box(10, 0, 30, 20, 40, 20)] * n, dtype=torch.float64)
    found = targets(label_maps(n, 5, 6), boxes, torch.arange(n), size, CLASSES, smoothing=smoothing)
    for each, total in zip(found, (1, *(1 + smoothing / CLASSES,) * 2), strict=True):
        sums = each.sum(-1)
        torch.testing.assert_close(sums, torch.full_like(sums, total))
        assert (each >= 0).all()
    assert found.dense.shape == (n, size, size, CLASSES)


def stripes(height: int, width: int) -> Tensor:
    """A map whose rows each name a class of their own."""
    rows = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    indices = torch.stack([(rows + i) % CLASSES for i in range(5)])
    values = torch.tensor([9.0, 0, 0, 0, 0], dtype=torch.float64)[:, None, None]
    return torch.stack([values.expand_as(indices), indices])[None]


@pytest.mark.parametrize("width", [6, 9])
def test_the_upper_half_of_an_image_has_the_upper_half_of_its_map(width: int) -> None:
    """The official code takes the left half in its place."""
    box = torch.tensor([crop_box(0, 0, 100, 300, 200, 300)], dtype=torch.float64)
    maps, label = stripes(6, width), torch.tensor([0])
    found = targets(maps, box, label, 3, CLASSES).dense.argmax(-1)
    assert found.tolist() == [[[row] * 3 for row in range(3)]]
    official = targets(maps, box, label, 3, CLASSES, axes="official").dense
    assert official.argmax(-1)[0, -1].min() > 3


@FAKE_CUDA
def test_targets_and_loss_never_wait_for_the_device() -> None:
    """Fake tensors have no values: what asks for one raises."""
    with FakeTensorMode():
        maps = torch.empty(4, 2, 5, 18, 18, dtype=torch.float16, device="cuda")
        boxes = torch.empty(4, 4, device="cuda")
        labels = torch.empty(4, dtype=torch.long, device="cuda")
        mask = torch.empty(7, 7, dtype=torch.bool, device="cuda")
        target = targets(maps, boxes, labels, 7, 40, smoothing=0.1)
        logits = TokenLogits(*(torch.empty_like(x) for x in target[1:]))
        result = loss(logits, target, mask, with_labels=True)
        assert result.device.type == "cuda"
        assert exchanged(torch.empty(4, 8, 56, 56, device="cuda"), mask).device.type == "cuda"


generators = st.sampled_from([np.random.default_rng, np.random.RandomState])


@given(generators, st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_a_box_lies_in_its_map_and_follows_from_the_seed(
    generator: Any, seed: int, height: int, width: int
) -> None:
    box = draw_box(generator(seed), height, width)
    assert 0 <= box.top <= box.bottom <= height
    assert 0 <= box.left <= box.right <= width
    assert box == draw_box(generator(seed), height, width)
    assert places(box, height, width).sum() == box.area


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_exchanging_is_its_own_inverse_and_takes_the_box_of_the_reversed_batch(
    seed: int, n: int, scale: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    box = draw_box(rng, size, size)
    x = torch.from_numpy(rng.standard_normal((n, 2, scale * size, scale * size)))
    mask = places(box, size, size)
    found = exchanged(x, mask)
    rows, columns = (
        slice(scale * a, scale * b) for a, b in ((box.top, box.bottom), (box.left, box.right))
    )
    expected = x.clone()
    expected[:, :, rows, columns] = x.flip(0)[:, :, rows, columns]
    assert torch.equal(found, expected)
    assert torch.equal(exchanged(found, mask), x)


def test_without_places_nothing_of_the_targets_is_mixed() -> None:
    logits, target = random_logits(4, 3), random_targets(4, 3)
    none = torch.zeros(3, 3, dtype=torch.bool)
    alone = loss(logits, target)
    assert torch.equal(alone, loss(logits, target, none))
    assert not torch.allclose(alone, loss(logits, target, ~none))


def test_targets_of_tokens_are_weighed_and_never_mixed() -> None:
    logits, target = random_logits(4, 3), random_targets(4, 3)
    some = torch.eye(3, dtype=torch.bool)
    parts = [
        loss(logits, target, mask, dense_weight=weight)
        for mask in (None, some)
        for weight in (0.0, 1.0)
    ]
    torch.testing.assert_close(parts[1] - parts[0], parts[3] - parts[2])
    torch.testing.assert_close(
        loss(logits, target, some, dense_weight=0.25), 0.75 * parts[2] + 0.25 * parts[3]
    )


MAPS, BOXES, LABELS = label_maps(2, 4, 4), torch.rand(2, 4), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((MAPS, BOXES, LABELS, 0, 9), {}, ArgumentError, "size to be an integer of at least 1"),
        ((MAPS, BOXES, LABELS, 7, 9), {"smoothing": 2}, ArgumentError, "smoothing to be a number"),
        ((MAPS, BOXES, LABELS, 7, 9), {"axes": "xy"}, ArgumentError, "axes to be one of"),
        ((MAPS[:, 0], BOXES, LABELS, 7, 9), {}, ShapeError, r"maps \(N, 2, 5, H, W\)"),
        ((MAPS, BOXES[:1], LABELS, 7, 9), {}, ShapeError, r"got \(2, 2, 5, 4, 4\), \(1, 4\)"),
        ((MAPS, BOXES, LABELS[None], 7, 9), {}, ShapeError, r"and \(1, 2\)"),
    ],
)
def test_what_are_no_maps_is_one_clear_error(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        targets(*arguments, **options)


def test_logits_of_another_map_are_one_clear_error() -> None:
    with pytest.raises(ShapeError, match="expected dense logits of the shape of their targets"):
        loss(random_logits(4, 2), random_targets(4, 3))
