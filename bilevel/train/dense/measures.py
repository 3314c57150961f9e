"""How good detections and segmentations are: COCO's numbers, and mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import BackendUnavailable

Target: TypeAlias = Mapping[str, Tensor]
"""Of an image: boxes ``(n, 4)`` as x1, y1, x2, y2, labels ``(n,)`` from 1 on; masks ``(n, H, W)``
where they are asked for; ``crowd``, bool ``(n,)``, where some boxes are of many objects."""
Kind: TypeAlias = Literal["bbox", "segm"]

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's 12 numbers in their order: the mean average precision over overlaps of .5 to .95, that at
.5 and at .75, of small, medium and large objects; the recall with 1, 10 and 100 detections of an
image, and by size."""
INSTALL = 'install it with: python -m pip install "bilevel[dense]"'
IGNORED = 255
MASKED = 0.5
"""The least probability of a pixel of a mask."""


def coco_numbers(
    targets: Sequence[Target],
    found: Sequence[Target],
    sizes: Sequence[tuple[int, int]],
    kind: Kind = "bbox",
) -> dict[str, float]:
    """COCO's 12 numbers of detections in torchvision's form, by faster-coco-eval; -1 where there is
    no object of a size.

    Parameters
    ----------
    targets
        What is in each image.
    found
        What was found: ``boxes``, ``scores``, ``labels``; for ``"segm"`` also ``masks``, bool or of
        probabilities, ``(n, H, W)`` or ``(n, 1, H, W)``.
    sizes
        Height and width of each image.
    kind
        ``"bbox"`` to compare boxes, ``"segm"`` to compare masks.

    Raises
    ------
    BackendUnavailable
        If faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"COCO's numbers need {error.name}; {INSTALL}") from error
    detections = [
        {"image_id": image, **each}
        for image, (one, _) in enumerate(zip(found, sizes, strict=True), 1)
        for each in _entries(one, kind)
    ]
    truth = COCO(_dataset(targets, sizes, kind))
    if not detections:
        return dict.fromkeys(NUMBERS, 0.0)
    run = COCOeval_faster(truth, truth.loadRes(detections), kind, print_function=_say_nothing)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(zip(NUMBERS, map(float, run.stats[: len(NUMBERS)]), strict=True))


def _dataset(
    targets: Sequence[Target], sizes: Sequence[tuple[int, int]], kind: Kind
) -> dict[str, Any]:
    """What is in the images, as a COCO file has it. Ids are from 1 on: 0 counts as unmatched."""
    annotations = [
        {"image_id": image, **each}
        for image, target in enumerate(targets, 1)
        for each in _entries(target, kind)
    ]
    last = max((each["category_id"] for each in annotations), default=0)
    return {
        "images": [
            {"id": image, "height": height, "width": width}
            for image, (height, width) in enumerate(sizes, 1)
        ],
        "annotations": [{"id": i, **each} for i, each in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, last + 1)],
        "info": {},
        "licenses": [],
    }


def _entries(one: Target, kind: Kind) -> Iterable[dict[str, Any]]:
    """The objects of an image, as a COCO file has them, but for ids."""
    boxes = one["boxes"].tolist()
    scores = one["scores"].tolist() if "scores" in one else [None] * len(boxes)
    crowd = one["crowd"].tolist() if "crowd" in one else [False] * len(boxes)
    masks = one["masks"] if kind == "segm" else [None] * len(boxes)
    labels = one["labels"].tolist()
    for (x1, y1, x2, y2), label, score, crowded, mask in zip(
        boxes, labels, scores, crowd, masks, strict=True
    ):
        entry = {"category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(crowded)}
        area = (x2 - x1) * (y2 - y1)
        if mask is not None:
            pixels = _pixels(mask)
            entry["segmentation"], area = _encoded(pixels), float(pixels.sum())
        yield entry | ({"area": area} if score is None else {"score": score})


def _pixels(mask: Tensor) -> Any:
    """Which pixels are of an object, bool ``(H, W)``."""
    mask = mask[0] if mask.ndim == 3 else mask
    return (mask >= MASKED if mask.is_floating_point() else mask.bool()).cpu().numpy()


def _encoded(pixels: Any) -> dict[str, Any]:
    from faster_coco_eval.core import mask

    rle = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts = rle["counts"]
    return {
        "size": list(map(int, rle["size"])),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _say_nothing(*_: Any, **__: Any) -> None:
    """In the place of print."""


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class (rows) were predicted as each class (columns), int64
    ``(num_classes, num_classes)``; sums over images add up. Pixels labelled 255 are left out.

    ``predictions`` and ``labels`` are integers of one shape.
    """
    kept = labels != IGNORED
    index = labels[kept].long() * num_classes + predictions[kept].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def mean_iou(confused: Tensor) -> dict[str, float]:
    """The mean over classes of intersection over union, of the sums of all images together, as
    mmsegmentation and torchmetrics' ``MulticlassJaccardIndex`` have it: ``mIoU``; and ``aAcc``, the
    share of the pixels that are right. Classes that are neither there nor predicted do not count.
    """
    right = confused.diagonal().double()
    union = confused.sum(0) + confused.sum(1) - right
    there = union > 0
    return {
        "aAcc": float(right.sum() / confused.sum().clamp(min=1)),
        "mIoU": float((right[there] / union[there]).mean()) if there.any() else 0.0,
    }
