"""From image files to the inputs of a model, in training and in testing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from bilevel.errors import InputError
from bilevel.train.config import TrainConfig
from bilevel.train.randaugment import Augmentation

LONGEST = 10
"""Length of what is seen of an image in testing, before it is resized, in widths."""


def read_rgb(path: str) -> Tensor:
    """An image file, upright: uint8 ``(3, H, W)``. Raises InputError if it is none.

    A tensor, since torchvision crops and resizes those in half of the time that it takes for images
    of Pillow; a view of Pillow's own order of memory, for which it is fastest.
    """
    return torch.from_numpy(np.array(_read(path, "RGB"))).permute(2, 0, 1)


def read_grey(path: str) -> Tensor:
    """An image file in grey: uint8 ``(1, H, W)``. Raises InputError if it is none."""
    return torch.from_numpy(np.array(_read(path, "L")))[None]


def read_digit(path: str) -> Any:
    """An image file as one of the digits: 8 x 8 pixels, grey. Raises InputError if it is none."""
    return np.array(_read(path, "L").resize((8, 8), Image.Resampling.BOX))


def read_small(path: str) -> Any:
    """An image file as one of Fashion-MNIST: 28 x 28 pixels, grey. Raises InputError if it is
    none."""
    return np.array(_read(path, "L").resize((28, 28), Image.Resampling.BOX))


def _read(path: str | Image.Image, mode: str) -> Image.Image:
    try:
        with nullcontext(path) if isinstance(path, Image.Image) else Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise OSError(f"pixels of mode {upright.mode!r} have no range; save it in 8 bits")
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return upright.convert(mode)
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InputError(
            f"cannot read the image {path}: {error or type(error).__name__}"
        ) from error


def of_files(read: Callable[[str], Any], view: v2.Compose) -> v2.Compose:
    """From the path of an image file to the input of a model."""
    return v2.Compose([read, view])


def digit_view(size: int) -> v2.Compose:
    """From a digit to the input of a model."""
    return v2.Compose([*_enlarged(size), v2.Normalize([0.5], [0.5])])


def digit_train_view(config: TrainConfig) -> v2.Compose:
    """The same, augmented and jittered."""
    jitter = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=-1.0)
    augmented: list[Any] = []
    if config.aa is not None:
        augmented = [v2.ToDtype(torch.uint8, scale=True), *_augmented(config, 1), _AS_FLOAT]
    return v2.Compose(
        [
            *_enlarged(config.image_size),
            *augmented,
            v2.Normalize([0.5], [0.5]),
            jitter,
            v2.RandomHorizontalFlip(config.hflip),
        ]
    )


_AS_FLOAT = v2.ToDtype(torch.float32, scale=True)


def _enlarged(size: int) -> list[Any]:
    return [v2.ToImage(), _AS_FLOAT, v2.Resize(size, v2.InterpolationMode.BILINEAR)]


def whole_view(size: int) -> v2.Compose:
    """From a grey image ``(H, W)`` to uint8 ``(1, size, size)``, nothing of it cut off."""
    return v2.Compose(
        [v2.ToImage(), v2.Resize((size, size), v2.InterpolationMode.BILINEAR), v2.ToPureTensor()]
    )


def whole_train_view(config: TrainConfig) -> v2.Compose:
    """The same, flipped or not, augmented."""
    flip = v2.RandomHorizontalFlip(config.hflip)
    return v2.Compose([whole_view(config.image_size), flip, *_augmented(config, 1)])


def train_view(config: TrainConfig, channels: int = 3) -> v2.Compose:
    """From an image, uint8 ``(C, H, W)``, to a random part of it, flipped or not, augmented."""
    flip = v2.RandomHorizontalFlip(config.hflip)
    return v2.Compose([_crop(config), flip, *_augmented(config, channels)])


def _crop(config: TrainConfig) -> Any:
    crops = {
        name: v2.RandomResizedCrop(config.image_size, interpolation=v2.InterpolationMode(name))
        for name in ("bicubic", "bilinear")
    }
    if config.train_interpolation == "random":
        return v2.RandomChoice(list(crops.values()))
    return crops[config.train_interpolation]


def _augmented(config: TrainConfig, channels: int) -> list[Any]:
    """What a config augments images with, that are as large as the model takes them."""
    if config.aa is None:
        return []
    return [Augmentation(config.aa, config.image_size, channels, config.train_interpolation)]


def test_view(size: int) -> v2.Compose:
    """The official evaluation: the shorter side to size / 0.875, then the centre; uint8."""
    resize = v2.Resize(round(size / 0.875), v2.InterpolationMode.BICUBIC)
    return v2.Compose([_middle, resize, v2.CenterCrop(size)])


def _middle(image: Tensor) -> Tensor:
    """The middle of an image that is very long: as long as it is, its shorter side at the size that
    is resized to would make more pixels than memory has. What is seen stays where it was."""
    longest = LONGEST * min(v2.functional.get_size(image))
    # Less by one where the number that is cut off would be odd, for the centre stays.
    size = [min(n, longest - (n - longest) % 2) for n in v2.functional.get_size(image)]
    middle: Tensor = v2.functional.center_crop(image, size)
    return middle
