"""QuadTree-B (Tang et al., ICLR 2022) as whole models."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from bilevel.compare.pyramid import Block, Patches, Pyramid
from bilevel.compare.quadtree import QuadTreeAttention
from bilevel.compare.quadtree_levels import Kind

WIDTHS = (64, 128, 320, 512)
HEAD_DIM = 64
MLP_RATIOS = (8, 8, 4, 4)
LEVELS = (4, 3, 2, 1)
"""By stage; so the coarsest map is 7 x 7 in each, for images of 224 x 224."""
DEPTHS = {"b1": (2, 2, 2, 2), "b2": (3, 4, 6, 3)}


class QuadTree(Pyramid):
    """QuadTree-B of a ``size``: ``"b1"`` or ``"b2"``. The registered models have attention of
    type B."""

    def __init__(self, size: str, num_classes: int = 1000, kind: Kind = "B") -> None:
        patches: list[nn.Module] = [Patches(3, WIDTHS[0], 7, 4)]
        patches += [Patches(*widths, 3, 2) for widths in pairwise(WIDTHS)]
        stages = zip(DEPTHS[size], WIDTHS, MLP_RATIOS, LEVELS, strict=True)
        blocks = [
            [
                Block(QuadTreeAttention(dim, dim // HEAD_DIM, levels, kind), dim, ratio)
                for _ in range(depth)
            ]
            for depth, dim, ratio, levels in stages
        ]
        super().__init__(patches, blocks)
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm4(self.tokens(images)).mean((1, 2)))
