"""The layout of Swin-T with any mixer: one architecture, and many ways to mix its tokens."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from bilevel.arguments import choice, count
from bilevel.axes import convolved
from bilevel.compare.mixers import MIXERS, Place
from bilevel.models import PUBLISHED, BiFormer, BiFormerConfig
from bilevel.models.modules import Stage, initialise
from bilevel.nn import depthwise

STAGES = 4
IMAGE_SIZE = 224

SWIN_T = PUBLISHED["biformer_stl"]
"""BiFormer in the layout of Swin-T, as it was published: patches of 4 x 4, merging of 2 x 2, depths
2 2 6 2, widths 96 192 384 768, heads of 32 channels."""

MICRO = replace(
    SWIN_T, depths=(2, 2, 2), embed_dims=(32, 64, 128), topk=SWIN_T.topk[1:], drop_path=0.05
)
"""The last three stages of that layout, narrow, to be trained on a CPU."""


def build(
    mixer: str,
    config: BiFormerConfig = SWIN_T,
    image_size: int = IMAGE_SIZE,
    num_classes: int = 1000,
    in_chans: int = 3,
) -> BiFormer:
    """A model in the layout of Swin-T whose blocks mix tokens by one of :data:`MIXERS`.

    Parameters
    ----------
    mixer
        Its name.
    config
        Depths and widths, in the layout ``"stl"``; its stages are the last ones of the four.
    image_size
        Height and width of the images, in pixels. The maps must be multiples of seven, as at 224,
        for most mixers; some have parameters for one size alone.
    num_classes, in_chans
        Outputs, and channels of images.

    Returns
    -------
    BiFormer
        From images ``(N, in_chans, image_size, image_size)`` to logits. Weights are new.

    Raises
    ------
    ArgumentError
        If there is no such mixer, or images are smaller than 32 x 32. From ``forward``, ShapeError
        if a map has a size that the mixer does not take.

    Examples
    --------
    >>> sum(p.numel() for p in build("window").parameters())
    28285666
    """
    chosen = MIXERS[choice("mixer", mixer, tuple(MIXERS))]
    image_size = count("image_size", image_size, 32)
    model = BiFormer(replace(config, num_classes=num_classes, in_chans=in_chans))
    for number, stage in enumerate(model.stages):
        size = image_size // 4 // 2**number
        for i, block in enumerate(stage):
            dim = config.embed_dims[number]
            shifted = number + STAGES - len(config.depths)
            place = Place(dim, dim // config.head_dim, shifted, i, (size, size))
            block.attention = chosen.attention(place) or block.attention
        if chosen.positions:
            model.stages[number] = Stage(stage[0], Position(dim), *stage[1:])
    return model.apply(initialise)  # all mixers in the same way


class Position(nn.Module):
    """Adds a depthwise convolution of themselves to tokens ``(N, H, W, dim)``: where they are, by
    the zeros around the map (Chu et al., conditional positional encodings, 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = depthwise(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + convolved(self.conv, x)
