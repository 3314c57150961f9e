"""COCO's numbers and mean intersection over union, on cases worked out by hand and against
torchmetrics."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from bilevel import BackendUnavailable
from bilevel.train.dense.measures import NUMBERS, coco_numbers, confusion, mean_iou

SIZE = (100, 100)


def target(*boxes: tuple[float, ...], **more: Any) -> dict[str, Tensor]:
    """Boxes of label 1."""
    labels = torch.ones(len(boxes), dtype=torch.long)
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": labels, **more}


def masks(*boxes: tuple[int, ...]) -> Tensor:
    found = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(found, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return found


SQUARE, BESIDE = (10.0, 10.0, 60.0, 60.0), (70.0, 70.0, 90.0, 90.0)


def test_what_is_right_is_1_and_the_first_object_counts() -> None:
    """An object whose id is 0 would count as missed."""
    truth = [target(SQUARE, BESIDE), target(SQUARE)]
    found = [{**each, "scores": torch.linspace(1, 0.5, len(each["boxes"]))} for each in truth]
    numbers = coco_numbers(truth, found, [SIZE] * 2)
    assert tuple(numbers) == NUMBERS
    assert numbers == dict.fromkeys(NUMBERS, 1.0) | {
        "AR1": pytest.approx(2 / 3),
        "APm": 1.0,
        "APl": -1.0,
        "ARl": -1.0,
    }


@pytest.mark.parametrize(("overlap", "ap"), [(0.62, 0.3), (0.93, 0.9), (0.4, 0.0)])
def test_an_overlap_counts_at_the_thresholds_below_it(overlap: float, ap: float) -> None:
    x1, y1, x2, y2 = SQUARE
    one = [target((x1, y1, x1 + (x2 - x1) * overlap, y2), scores=torch.tensor([0.9]))]
    numbers = coco_numbers([target(SQUARE)], one, [SIZE])
    assert numbers["AP"] == pytest.approx(ap)
    assert numbers["AP50"] == float(overlap > 0.5)


def test_a_false_detection_before_a_right_one_halves_the_precision() -> None:
    found = [target(BESIDE, SQUARE, scores=torch.tensor([0.9, 0.8]))]
    assert coco_numbers([target(SQUARE)], found, [SIZE])["AP"] == pytest.approx(0.5)
    ignored = target(SQUARE, BESIDE, crowd=torch.tensor([False, True]))
    assert coco_numbers([ignored], found, [SIZE])["AP"] == pytest.approx(1)


def test_masks_are_compared_and_not_their_boxes() -> None:
    box = (10, 10, 60, 60)
    half = masks(box)
    half[:, :, 35:] = 0
    truth = [target(SQUARE, masks=masks(box))]
    probabilities = half[:, None] * 0.6 + 0.2
    found = [target(SQUARE, scores=torch.tensor([0.9]), masks=probabilities)]
    assert coco_numbers(truth, found, [SIZE])["AP"] == 1
    assert coco_numbers(truth, found, [SIZE], "segm")["AP"] == pytest.approx(0.1)  # at .5 alone


def test_nothing_found_and_nothing_there() -> None:
    nothing = [{**target(), "scores": torch.zeros(0)}]
    assert coco_numbers([target(SQUARE)], nothing, [SIZE])["AP"] == 0
    right = target(SQUARE, scores=torch.tensor([0.9]))
    with_empty = coco_numbers([target(SQUARE), target()], [right, nothing[0]], [SIZE] * 2)
    assert with_empty["AP"] == 1


def test_without_the_library_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(
        BackendUnavailable, match=r'faster_coco_eval; install it .*bilevel\[dense]"'
    ):
        coco_numbers([target(SQUARE)], [target(SQUARE)], [SIZE])


@pytest.mark.parametrize("seed", range(5))
def test_mean_iou_is_that_of_torchmetrics(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    metric, total = MulticlassJaccardIndex(7, ignore_index=255), torch.zeros(7, 7).long()
    for _ in range(3):
        labels = torch.randint(6, (2, 9, 8), generator=draw)  # one class is never there
        predictions = torch.where(
            torch.rand(2, 9, 8, generator=draw) < 0.6,
            labels,
            torch.randint(6, (2, 9, 8), generator=draw),
        )
        labels[torch.rand(2, 9, 8, generator=draw) < 0.2] = 255
        metric.update(predictions, labels)
        total += confusion(predictions, labels, 7)
    assert mean_iou(total)["mIoU"] == pytest.approx(metric.compute().item(), abs=1e-7)


def test_pixels_without_a_label_count_nowhere() -> None:
    labels = torch.tensor([[0, 1, 255], [1, 255, 255]])
    found = mean_iou(confusion(torch.tensor([[0, 0, 1], [1, 0, 1]]), labels, 3))
    assert found == {"aAcc": pytest.approx(2 / 3), "mIoU": pytest.approx(0.5)}
    nothing = confusion(labels, torch.full_like(labels, 255), 3)
    assert mean_iou(nothing) == {"aAcc": 0.0, "mIoU": 0.0}
