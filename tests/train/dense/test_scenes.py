"""Scenes of digits: what is in them is where they say, and they are functions of their position."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from bilevel import ArgumentError, BackendUnavailable
from bilevel.train.dense import scenes
from bilevel.train.dense.scenes import CLASSES, INK, Scenes


@pytest.mark.parametrize("size", [64, 128, 200])
def test_boxes_masks_and_labels_are_of_what_is_seen(size: int) -> None:
    several = Scenes(20, size=size)
    labels: set[int] = set()
    for scene in (several[i] for i in range(20)):
        assert scene.image.shape == (3, size, size)
        n = len(scene.labels)
        assert 1 <= n < 9
        assert scene.boxes.shape == (n, 4)
        assert scene.masks.shape == (n, size, size)
        assert int(scene.masks.sum(0).max()) == 1  # a pixel is of one digit
        for (x1, y1, x2, y2), mask in zip(scene.boxes.int().tolist(), scene.masks, strict=True):
            assert 0 <= x1 < x2 <= size
            assert 0 <= y1 < y2 <= size
            assert mask.any()
            assert not mask[:y1].any()
            assert not mask[y2:].any()
            assert not mask[:, :x1].any()
            assert not mask[:, x2:].any()
        semantic = scene.semantic()
        assert set(semantic.unique().tolist()) == {0, *scene.labels.tolist()}
        labels |= set(scene.labels.tolist())
    assert labels == set(range(1, len(CLASSES) + 1))


def test_the_last_digit_has_a_box_as_tight_as_its_mask() -> None:
    """Those before it may be covered in part."""
    for scene in (Scenes(10)[i] for i in range(10)):
        rows, columns = torch.nonzero(scene.masks[-1], as_tuple=True)
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.boxes[-1].tolist() == [float(n) for n in around]


def equal(a: Any, b: Any) -> bool:
    return all(map(torch.equal, a, b))


def test_a_scene_is_a_function_of_seed_split_and_position() -> None:
    first, again = Scenes(5), Scenes(9)
    _ = first[3]
    assert equal(first[2], again[2])
    others = (Scenes(5, seed=1)[2], Scenes(5, "test")[2], first[3], Scenes(5, size=96)[2])
    for other in others:
        assert not torch.equal(first[2].image, other.image) or not equal(first[2], other)
    with pytest.raises(IndexError):
        first[5]


def test_no_digit_is_in_both_splits() -> None:
    train, test = (scenes._digits()[split][0] for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    seen = {digit.tobytes() for digit in train}
    assert sum(digit.tobytes() in seen for digit in test) == 0
    assert (train > INK).any((1, 2)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "expected size to be an integer from 64 to 512, the size of the textures"),
        ({"split": "val"}, "expected split to be one of 'train', 'test', got 'val'"),
        ({"length": 0}, "expected length to be an integer of at least 1"),
    ],
)
def test_what_are_no_scenes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Scenes(**{"length": 3, **options})


def test_without_the_textures_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    scenes._textures.cache_clear()
    with pytest.raises(BackendUnavailable, match=r'digit-scenes need skimage; .*bilevel\[dense]"'):
        Scenes(1)[0]
    scenes._textures.cache_clear()
