"""What a model that learns token labels has besides: MixToken, and logits of each token."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate


class TokenLogits(NamedTuple):
    """What a loss with token labels compares with its targets."""

    pooled: Tensor
    """Of the mean of all tokens, ``(N, classes)``."""
    dense: Tensor
    """Of each token of the last map, ``(N, H, W, classes)``."""


def exchanged(x: Tensor, places: Tensor) -> Tensor:
    """A batch in which some places have the values of the reversed batch; its own inverse.

    This is MixToken of the LV-ViT paper (section 3.2; arXiv:2104.10858): a map is mixed early in
    the network, and exchanged back at its end, so that each token again belongs to its image.

    Parameters
    ----------
    x
        A map ``(N, C, H, W)``.
    places
        Boolean ``(h, w)``, true where values are exchanged; of the map's size, or of the size of a
        smaller one, each of whose places stands for a rectangle of the map.
    """
    mask = interpolate(places[None, None].to(x.dtype), x.shape[2:]).bool()
    return x.flip(0).where(mask, x)
