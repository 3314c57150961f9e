"""A classifier that says what is at each place: its head, applied to each place of its last map, as
a convolution of 1 x 1 would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from bilevel.errors import InputError
from bilevel.train.token_labels.maps import MOST_CLASSES
from bilevel.train.token_labels.targets import BEST


@dataclass(frozen=True)
class Teacher:
    """A model in evaluation mode, and how it sees images."""

    model: nn.Module
    """With timm's ``forward_features`` and ``forward_head``."""
    in_chans: int
    mean: Sequence[float]
    """Of each channel, where pixels are from 0 to 1."""
    std: Sequence[float]
    interpolation: str
    """By which images are resized, as timm calls it."""
    image_size: int
    """Height and width of the images that it sees."""

    def inputs(self, image: Tensor) -> Tensor:
        """An image, uint8 ``(C, H, W)``, as the teacher sees it: the whole of it, made square, as
        crops are counted in shares of the whole. Grey ones get as many channels as it takes.

        Raises InputError if it takes fewer channels than the image has.
        """
        if len(image) != self.in_chans:
            if len(image) != 1:
                raise InputError(
                    f"expected a teacher of images with {len(image)} channels, got one for "
                    f"{self.in_chans}"
                )
            image = image.expand(self.in_chans, -1, -1)
        mode = InterpolationMode(self.interpolation)
        size = [self.image_size, self.image_size]
        scaled = resize(image, size, mode, antialias=True).float() / 255
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (scaled - mean) / std

    @torch.no_grad()
    def maps(self, inputs: Tensor) -> Tensor:
        """Label maps, float16 ``(N, 2, 5, H, W)`` on the CPU, of a batch of :meth:`inputs`.

        Raises InputError if the teacher cannot look at each place by itself.
        """
        return best(place_logits(self.model, inputs))


def of_model(model: nn.Module, seen: Mapping[str, Any], image_size: int | None) -> Teacher:
    """A model as a teacher; ``seen`` says how it sees images, as timm's ``pretrained_cfg`` does.

    Raises InputError if it has more classes than label maps can number.
    """
    classes = int(getattr(model, "num_classes", 0))
    if not 0 < classes <= MOST_CLASSES:
        raise InputError(f"expected a teacher of 1 to {MOST_CLASSES} classes, got {classes}")
    channels, *size = seen["input_size"]
    return Teacher(
        model.eval(),
        channels,
        tuple(seen["mean"]),
        tuple(seen["std"]),
        seen["interpolation"],
        image_size or size[-1],
    )


def place_logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits of each place of the last map, ``(N, H, W, classes)``: those that the head would
    give of a map of this place alone, so that a norm between pooling and head takes part.

    Raises InputError if there is no such map, or the head does not take a single place.
    """
    of_timm: Any = model
    features = of_timm.forward_features(inputs)
    shape = tuple(features.shape)
    wide = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == of_timm.num_features]
    if not wide:
        raise InputError(
            f"expected a teacher whose last map is (N, C, H, W) of {of_timm.num_features} "
            f"channels, got {type(model).__name__}, whose features are {shape}; take a "
            "convolutional one, such as dm_nfnet_f6"
        )
    places = features.movedim(wide[0], -1)
    alone = places.flatten(0, 2)[:, None, None].movedim(-1, wide[0])
    try:
        logits = of_timm.forward_head(alone)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"expected a teacher whose head takes a single place, got {type(model).__name__}: "
            f"{reason}"
        ) from error
    return logits.unflatten(0, places.shape[:3])


def best(logits: Tensor) -> Tensor:
    """The five largest logits of ``(N, H, W, classes)`` and their classes, as label maps have them:
    float16 ``(N, 2, 5, H, W)`` on the CPU. Where there are fewer classes, the last is repeated.

    Raises InputError if a logit is not finite in float16.
    """
    values, classes = logits.float().topk(min(BEST, logits.shape[-1]), -1)
    found = torch.stack([values, classes.float()], 1).to("cpu", torch.float16)
    if not found.isfinite().all():
        raise InputError("expected finite logits within float16, got others from the teacher")
    found = found.movedim(-1, 2)
    missing = BEST - found.shape[2]
    return torch.cat([found, found[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of a model's parameters and buffers."""
    digest = sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
