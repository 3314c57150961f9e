"""From an image file to what a model takes and what people see. Needs Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.arguments import count
from bilevel.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

IMAGENET: Mapping[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
}
"""What models of three channels expect, unless something else is known of them."""
GREY: Mapping[str, Any] = {**IMAGENET, "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear"}

LEAST = 32
"""Pixels of which the last stage of a model makes one token."""


class Prepared(NamedTuple):
    """An image, as a model takes it and as people see it."""

    image: NDArray[np.float32]
    """``(1, C, H, W)``, normalised."""
    picture: NDArray[np.uint8]
    """``(H, W, C)``"""
    file_size: tuple[int, int]
    """Height and width of the image as it came, in pixels."""

    def pixel(self, at: tuple[int, int] | None) -> tuple[int, int]:
        """The pixel ``(x, y)`` of the image, for one of the image as it came; the middle for None.

        Raises ArgumentError if it is outside.
        """
        size = self.picture.shape[:2]
        if at is None:
            return size[1] // 2, size[0] // 2
        x, y = (
            (2 * count(f"at[{i}]", value, 0, most - 1, "the pixels of the image") + 1)
            * now
            // (2 * most)
            for i, (value, most, now) in enumerate(
                zip(at, reversed(self.file_size), reversed(size), strict=True)
            )
        )
        return x, y


def read(path: Path) -> Image.Image:
    """An image file, upright. Raises InputError if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # of which Pillow would keep the lowest 8 bits
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        what = error or type(error).__name__
        raise InputError(f"cannot read the image {path}: {what}") from error


def prepare(
    picture: Image.Image, channels: int, preprocessing: Mapping[str, Any], size: int | None = None
) -> Prepared:
    """A whole image for a model of so many channels: its shorter side gets the size that the model
    was trained with, or ``size``, and the other follows. (Testing cuts out the middle.)

    ``preprocessing`` has what is known of ``mean``, ``std``, ``input_size`` and ``interpolation``,
    by timm's names. Raises InputError if the model takes other than one or three channels, and
    ArgumentError if ``size`` is below 32.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise InputError(f"expected a model of images with 1 or 3 channels, got {channels}")
    known = {**(GREY if channels == 1 else IMAGENET), **preprocessing}
    side = count("size", known["input_size"][-1] if size is None else size, LEAST)
    shorter = min(picture.size)
    width, height = (max(1, round(side * n / shorter)) for n in picture.size)
    how = Image.Resampling[known["interpolation"].upper()]
    sized = picture.convert("L" if channels == 1 else "RGB").resize((width, height), how)
    shown = np.asarray(sized).reshape(height, width, channels)
    x = (shown / 255 - np.array(known["mean"])) / np.array(known["std"])
    return Prepared(_channels_first(x), shown, (picture.height, picture.width))


def _channels_first(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


def labelled(labels: Sequence[str], logits: NDArray[Any]) -> str:
    """What a model says an image is, with its probability; its number where there are no labels."""
    best = int(logits.argmax())
    probability = 1 / np.exp(logits - logits.max()).sum()
    name = labels[best] if labels else f"class {best}"
    return f"{name} ({probability:.2f})"
