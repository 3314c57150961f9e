"""Scenes of handwritten digits on photographs of textures, whose boxes and masks are known: data to
learn detection and segmentation from that nothing need be downloaded for.

The digits are scikit-learn's 1797, a fifth of them held out for tests; the textures are brick,
gravel and grass of scikit-image. A scene is a function of a seed, a split and a position alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bilevel.arguments import choice, count
from bilevel.errors import BackendUnavailable

Split: TypeAlias = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
CLASSES = tuple("0123456789")
TEXTURES = ("brick", "gravel", "grass")
MOST_SIZE = 512
"""Pixels on each axis of the textures."""

DIGITS = range(3, 9)
"""How many there may be in a scene."""
ENLARGED = (2.5, 5.0)
"""By how much, from 8 pixels."""
INK = 0.4
"""From which darkness on a pixel is of a digit."""
MOST_OVERLAP = 0.1
"""Of two digits' boxes, as a share of the smaller one."""
LEAST_CONTRAST = 0.25
"""Between a digit and what is behind it, in lightness."""
TRIES = 20
NOISE = 0.02
LIGHTNESS = np.array([0.299, 0.587, 0.114])
"""What red, green and blue add to it."""


class Scene(NamedTuple):
    """An image and the digits in it, those behind first."""

    image: Tensor
    """uint8 ``(3, size, size)``."""
    boxes: Tensor
    """float32 ``(n, 4)``: x1, y1, x2, y2, around the whole digits."""
    labels: Tensor
    """int64 ``(n,)``: the digit and one."""
    masks: Tensor
    """uint8 ``(n, size, size)``: what is seen of each digit."""

    def target(self) -> dict[str, Tensor]:
        """As torchvision's detectors take it."""
        return {"boxes": self.boxes, "labels": self.labels, "masks": self.masks}

    def semantic(self) -> Tensor:
        """The class of each pixel, int64 ``(size, size)``: 0 for the background, the digit and one
        for a digit."""
        return (self.masks.long() * self.labels[:, None, None]).amax(0)


class Scenes(Dataset[Scene]):
    """So many scenes of a split: ``scenes[position]``.

    Raises ArgumentError if the size is not from 64 to 512 pixels, or there is no such split.
    """

    def __init__(self, length: int, split: Split = "train", size: int = 128, seed: int = 0) -> None:
        self.length = count("length", length)
        self.split = choice("split", split, SPLITS)
        self.size = count("size", size, 64, MOST_SIZE, "the size of the textures")
        self.seed = count("seed", seed, 0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Scene:
        if not 0 <= position < self.length:
            raise IndexError(position)
        draw = np.random.default_rng([self.seed, SPLITS.index(self.split), position])
        return _scene(draw, self.split, self.size)


def _scene(draw: np.random.Generator, split: Split, size: int) -> Scene:
    digits, labels = _digits()[split]
    image = _background(draw, size)
    boxes: list[tuple[int, int, int, int]] = []
    found: list[int] = []
    masks: list[Any] = []
    for _ in range(draw.integers(DIGITS.start, DIGITS.stop)):
        i = draw.integers(len(digits))
        digit = _cut(_enlarged(digits[i], draw.uniform(*ENLARGED)))
        box = _placed(draw, digit.shape, boxes, size)
        if box is None:
            continue
        x1, y1, x2, y2 = box
        _paint(draw, image[y1:y2, x1:x2], digit)
        mask = np.zeros((size, size), np.uint8)
        mask[y1:y2, x1:x2] = digit > INK
        for behind in masks:
            behind[mask > 0] = 0
        boxes.append(box)
        found.append(int(labels[i]) + 1)
        masks.append(mask)
    noisy = np.clip(image + draw.normal(0, NOISE, image.shape), 0, 1)
    pixels = np.ascontiguousarray(np.rint(noisy * 255).astype(np.uint8).transpose(2, 0, 1))
    return Scene(
        torch.from_numpy(pixels),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(found),
        torch.from_numpy(np.stack(masks)),
    )


@cache
def _digits() -> dict[Split, tuple[Any, Any]]:
    """Images ``(n, 8, 8)`` of 0 to 1 and their labels, of each split."""
    from sklearn.datasets import load_digits  # sklearn takes a second
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return {"train": (parts[0], parts[2]), "test": (parts[1], parts[3])}


@cache
def _textures() -> Sequence[Any]:
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"digit-scenes need {error.name}; "
            'install it with: python -m pip install "bilevel[dense]"'
        ) from error
    return [getattr(data, name)() / 255 for name in TEXTURES]


def _background(draw: np.random.Generator, size: int) -> Any:
    """A part of a texture, tinted: ``(size, size, 3)`` of 0 to 1."""
    texture = _textures()[int(draw.integers(len(TEXTURES)))]
    y, x = draw.integers(0, MOST_SIZE + 1 - size, 2)
    part = texture[y : y + size, x : x + size]
    part = part[:, ::-1] if draw.random() < 0.5 else part
    return part[..., None] * draw.uniform(0.5, 1, 3) * draw.uniform(0.5, 1)


def _enlarged(digit: Any, factor: float) -> Any:
    x = torch.from_numpy(digit)[None, None]
    side = round(len(digit) * factor)
    larger = torch.nn.functional.interpolate(
        x, size=(side, side), mode="bicubic", align_corners=False
    )
    return larger[0, 0].clamp(0, 1).numpy()


def _cut(digit: Any) -> Any:
    """Without the rows and columns around it."""
    inked = digit > INK
    rows, columns = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _placed(
    draw: np.random.Generator,
    shape: tuple[int, int],
    others: Sequence[tuple[int, int, int, int]],
    size: int,
) -> tuple[int, int, int, int] | None:
    """A box that overlaps others little; None if none was met."""
    height, width = shape
    for _ in range(TRIES):
        y, x = (int(draw.integers(0, size - n + 1)) for n in (height, width))
        box = (x, y, x + width, y + height)
        if all(_overlap(box, other) <= MOST_OVERLAP for other in others):
            return box
    return None


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """The area that two boxes share, as a part of the smaller one's."""
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return width * height / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))


def _paint(draw: np.random.Generator, patch: Any, digit: Any) -> None:
    """A digit over a patch of the image, in a color that can be told from it."""
    behind = patch.mean((0, 1)) @ LIGHTNESS
    for _ in range(TRIES):
        color = draw.uniform(0, 1, 3)
        if abs(color @ LIGHTNESS - behind) > LEAST_CONTRAST:
            break
    alpha = np.clip((digit - 0.25) / 0.3, 0, 1)[..., None]
    patch[:] = patch * (1 - alpha) + color * alpha
