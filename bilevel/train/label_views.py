"""From an image and its label map to the input of a model, and to what the map is of it then."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2.functional import resized_crop

from bilevel.errors import ArgumentError
from bilevel.train.config import TrainConfig
from bilevel.train.randaugment import Augmentation
from bilevel.train.token_labels import crop_box
from bilevel.train.token_labels.geometry import flipped, moved
from bilevel.train.token_labels.packing import packed

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of crops, as torchvision's: share of the image, ratio of the sides."""


class LabelledView:
    """An image may be mirrored, is augmented, and then cropped, in this order, so that of the crop
    its box alone is to be known; the label map is mirrored and moved alike.

    Parameters
    ----------
    config
        Of the run.
    channels
        Of the images, one or three.
    crops
        Whether images are cropped; the small ones of some data are used whole.

    Raises
    ------
    ArgumentError
        For AugMix, of which no map could follow.
    """

    def __init__(self, config: TrainConfig, channels: int, crops: bool) -> None:
        self._size, self._hflip, self._crops = config.image_size, config.hflip, crops
        self._augment = None
        if config.aa is not None:
            if config.aa.startswith("augmix"):
                raise ArgumentError(
                    f"expected aa to be no AugMix with label maps, got {config.aa!r}"
                )
            self._augment = Augmentation(
                config.aa, config.image_size, channels, config.train_interpolation
            )
        name = config.train_interpolation
        self._interpolations = ["bicubic", "bilinear"] if name == "random" else [name]

    def __call__(self, image: Tensor, label_map: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """From uint8 ``(C, H, W)``, float16 ``(2, 5, h, w)`` and the class to the image, uint8
        ``(C, size, size)``, and map, box and class, packed."""
        if torch.rand(()) < self._hflip:
            image, label_map = image.flip(-1), flipped(label_map)
        height, width = image.shape[1:]
        if self._augment is not None:
            image, moves = self._augment.with_moves(image)
            for move in moves:
                label_map = moved(label_map, move, (height, width))
        crop: tuple[int, int, int, int] = (0, 0, height, width)
        if self._crops:
            crop = RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))
        chosen = int(torch.randint(len(self._interpolations), (1,)))
        mode = v2.InterpolationMode(self._interpolations[chosen])
        found = resized_crop(image, *crop, [self._size, self._size], mode, antialias=True)
        return found, packed(label_map, crop_box(*crop, height, width), label)
