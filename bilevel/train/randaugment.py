"""RandAugment, AutoAugment and AugMix, by timm, on tensors and with any Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from bilevel.errors import ArgumentError
from bilevel.train.config import Interpolation
from bilevel.train.token_labels.geometry import Affine

MEAN = (124, 116, 104)
"""ImageNet's mean color, of what is moved into an image from beyond its borders."""


class Augmentation:
    """From an image, uint8 ``(C, H, W)`` of one or three channels, to another of the same size, as
    the generators of Python and NumPy draw.

    Parameters
    ----------
    policy
        As timm writes it, such as ``rand-m9-mstd0.5-inc1``.
    size
        Height and width of the images: the longest translation is a part of it.
    channels
        One or three.
    interpolation
        Of images that are turned or shifted; ``random`` is drawn each time.

    Raises
    ------
    ArgumentError
        If timm cannot read the policy.
    """

    def __init__(self, policy: str, size: int, channels: int, interpolation: Interpolation) -> None:
        values: dict[str, Any] = {
            "translate_const": int(size * 0.45),
            "img_mean": MEAN if channels == 3 else sum(MEAN) // 3,
        }
        if interpolation != "random":
            values["interpolation"] = Image.Resampling[interpolation.upper()]
        try:
            self._transform = _transform(policy, values)
        except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ArgumentError(
                "expected aa to be as timm writes it, such as 'rand-m9-mstd0.5-inc1', got "
                f"{policy!r}: {error or type(error).__name__}"
            ) from error
        self._moves: list[Affine] = []
        for operation in _operations(self._transform):
            if operation.aug_fn.__name__ == "posterize":
                operation.aug_fn = posterize
            if operation.name in MOVES:
                operation.aug_fn = _Noted(operation.aug_fn, operation.name, self._moves)

    def __call__(self, image: Tensor) -> Tensor:
        return self.with_moves(image)[0]

    def with_moves(self, image: Tensor) -> tuple[Tensor, list[Affine]]:
        """The image, and how it was moved, from first to last; AugMix mixes several images that
        were moved by themselves."""
        self._moves.clear()
        found = functional.pil_to_tensor(self._transform(functional.to_pil_image(image)))
        return found, list(self._moves)


class _Noted:
    """An operation that moves images, which notes how."""

    def __init__(self, operation: Any, name: str, moves: list[Affine]) -> None:
        self.operation, self.name, self.moves = operation, name, moves

    def __call__(self, image: Image.Image, level: float, **options: Any) -> Image.Image:
        self.moves.append(MOVES[self.name](level, *image.size))
        moved: Image.Image = self.operation(image, level, **options)
        return moved


def _turned(degrees: float, width: int, height: int) -> Affine:
    """As Pillow turns images, around their middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


MOVES: Mapping[str, Callable[[float, int, int], Affine]] = {
    "Rotate": _turned,
    "ShearX": lambda level, width, height: (1, level, 0, 0, 1, 0),
    "ShearY": lambda level, width, height: (1, 0, 0, level, 1, 0),
    "TranslateX": lambda level, width, height: (1, 0, level, 0, 1, 0),
    "TranslateY": lambda level, width, height: (1, 0, 0, 0, 1, level),
    "TranslateXRel": lambda level, width, height: (1, 0, level * width, 0, 1, 0),
    "TranslateYRel": lambda level, width, height: (1, 0, 0, 0, 1, level * height),
}
"""What those of timm's operations do that move an image, by their names: from the level and the
image's width and height."""


def _transform(policy: str, values: dict[str, Any]) -> Any:
    from timm.data import auto_augment  # timm takes seconds

    if policy.startswith("rand"):
        return auto_augment.rand_augment_transform(policy, values)
    if policy.startswith("augmix"):
        return auto_augment.augment_and_mix_transform(policy, values)
    return auto_augment.auto_augment_transform(policy, values)


def _operations(transform: Any) -> Iterator[Any]:
    """The single operations of a transform of timm."""
    yield from getattr(transform, "ops", ())
    for operations in getattr(transform, "policy", ()):
        yield from operations


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """An image of so many bits per channel. None leave it black, as Pillow did before version 13,
    which refuses that; timm asks for it at the greatest magnitude."""
    from timm.data import auto_augment

    if bits < 1:
        return Image.new(image.mode, image.size)
    of_bits: Any = auto_augment.posterize
    return of_bits(image, bits)
