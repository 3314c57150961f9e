"""RandAugment, AutoAugment and AugMix, by timm, on tensors and with any Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from bilevel.errors import ArgumentError
from bilevel.train.config import Interpolation

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
        for operation in _operations(self._transform):
            if operation.aug_fn.__name__ == "posterize":
                operation.aug_fn = posterize

    def __call__(self, image: Tensor) -> Tensor:
        return functional.pil_to_tensor(self._transform(functional.to_pil_image(image)))


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
