"""What is done to a batch on the device that trains: parts of images erased, images mixed.

All that is random is drawn on the host, so that nothing waits for the device, and the same images
get the same bits on any number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import InputError
from bilevel.train.config import Erased, TrainConfig
from bilevel.train.data import Batch

AREA, ASPECT, ATTEMPTS = (0.02, 1 / 3), 0.3, 10
"""Of erased rectangles: least and greatest share of the image, least ratio of the sides, and how
many are drawn until one fits."""


def erase(images: Tensor, seeds: Sequence[int], probability: float, mode: Erased) -> Tensor:
    """Normalised images ``(N, C, H, W)``, in some of which a rectangle is replaced, in place.

    An image's seed decides whether and where; the noise has the same bits on devices of one kind.
    The rectangles are those of timm's RandomErasing (Zhong et al., 2017).
    """
    if probability:
        for image, seed in zip(images, seeds, strict=True):
            _erase(image, seed, probability, mode)
    return images


def _erase(image: Tensor, seed: int, probability: float, mode: Erased) -> None:
    draw = Random(seed)
    if draw.random() > probability:
        return
    channels, height, width = image.shape
    box = _rectangle(draw, height, width)
    if box is None:
        return
    top, left, h, w = box
    if mode == "const":
        image[:, top : top + h, left : left + w] = 0
        return
    shape = (channels, h, w) if mode == "pixel" else (channels, 1, 1)
    generator = torch.Generator(image.device).manual_seed(draw.getrandbits(63))
    noise = torch.randn(shape, generator=generator, device=image.device, dtype=image.dtype)
    image[:, top : top + h, left : left + w] = noise


def _rectangle(draw: Random, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of a part of an image; None if none of those drawn fits."""
    for _ in range(ATTEMPTS):
        area = draw.uniform(*AREA) * height * width
        ratio = math.exp(draw.uniform(math.log(ASPECT), -math.log(ASPECT)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    return None


class Mixing:
    """Mixup and cutmix of batches (Zhang et al., 2018; Yun et al., 2019), by timm.

    An image is mixed with its counterpart in the reversed batch, all of a batch alike, as NumPy's
    own generator draws.
    """

    def __init__(self, config: TrainConfig, classes: int) -> None:
        from timm.data import Mixup  # timm takes seconds

        mixup: Any = Mixup
        self._mixup = mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            label_smoothing=0.0,  # the loss smooths
            num_classes=classes,
        )

    def __call__(self, batch: Batch) -> Batch:
        """Images float ``(N, C, H, W)`` and labels int64 ``(N,)``, mixed: labels are then
        probabilities, float32 ``(N, classes)``. The batch itself stays as it is.

        Raises InputError for an odd number of images.
        """
        if len(batch.labels) % 2:
            raise InputError(
                "expected batches of an even number of images for mixup or cutmix, got "
                f"{len(batch.labels)}; give another --batch-size"
            )
        return Batch(*self._mixup(batch.images.clone(), batch.labels))
