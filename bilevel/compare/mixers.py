"""All mixers by name, at the sizes of the Swin-T layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import nn

from bilevel.compare.axial import AxialAttention
from bilevel.compare.block_grid import BlockGridAttention
from bilevel.compare.criss_cross import CrissCrossAttention
from bilevel.compare.cross_shaped import CrossShapedAttention
from bilevel.compare.deformable import DeformableAttention
from bilevel.compare.quadtree import QuadTreeAttention
from bilevel.compare.quadtree_levels import Kind
from bilevel.compare.routing import RandomRouting, full_attention
from bilevel.compare.separable import GlobalSubsampledAttention, LocallyGroupedAttention
from bilevel.compare.sliding import SlidingAttention
from bilevel.compare.wavelet import WaveletAttention
from bilevel.compare.window import WindowAttention
from bilevel.models.config import PUBLISHED

WINDOW = 7
STRIPES = (1, 2, 7, 7)
REDUCTIONS = (8, 4, 2, 1)
WAVELET_REDUCTIONS = (4, 2)
LEVELS = (4, 3, 2, 1)
DEFORMABLE_KERNELS = {2: 5, 3: 3}
HEADS_PER_GROUP = 4
"""Heads that share the points of deformable attention."""


class Place(NamedTuple):
    """Where a mixer stands."""

    dim: int
    heads: int
    stage: int
    """0 to 3; maps of 56, 28, 14 and 7 tokens an axis, for images of 224 x 224."""
    block: int
    """Which block of its stage, from 0."""
    size: tuple[int, int]
    """Height and width of the map."""

    @property
    def odd(self) -> bool:
        """Whether it is the second of two kinds that take turns."""
        return self.block % 2 == 1


class Mixer(NamedTuple):
    """How tokens are mixed, and where that is from."""

    source: str
    attention: Callable[[Place], nn.Module | None]
    """The layer at a place, on ``(N, H, W, dim)``; None where it is that of BiFormer-STL."""
    positions: bool = False
    """Whether the position comes from a depthwise convolution after each stage's first block."""


def _window(place: Place, shift: int = 0) -> nn.Module:
    moves = place.odd and min(place.size) > WINDOW  # one window has nowhere to go
    return WindowAttention(place.dim, place.heads, WINDOW, shift if moves else 0)


def _axial(place: Place) -> nn.Module:
    height, width = place.size
    if place.odd:
        return AxialAttention(place.dim, place.heads, height, "column")
    return AxialAttention(place.dim, place.heads, width, "row")


def _separable(place: Place) -> nn.Module:
    if place.odd:
        return GlobalSubsampledAttention(place.dim, place.heads, REDUCTIONS[place.stage])
    return LocallyGroupedAttention(place.dim, place.heads, WINDOW)


def _cross_shaped(place: Place) -> nn.Module:
    stripe = STRIPES[place.stage]
    return CrossShapedAttention(place.dim, place.heads, stripe, last_stage=place.stage == 3)


def _deformable(place: Place) -> nn.Module:
    kernel = DEFORMABLE_KERNELS.get(place.stage)
    if kernel is None or not place.odd:
        return _window(place, shift=4)
    groups = max(1, place.heads // HEADS_PER_GROUP)
    return DeformableAttention(place.dim, place.heads, groups, place.size, kernel)


def _wavelet(place: Place) -> nn.Module:
    if place.stage < len(WAVELET_REDUCTIONS):
        return WaveletAttention(place.dim, place.heads, WAVELET_REDUCTIONS[place.stage])
    return GlobalSubsampledAttention(place.dim, place.heads)


def _quadtree(place: Place, kind: Kind) -> nn.Module:
    return QuadTreeAttention(place.dim, place.heads, LEVELS[place.stage], kind)


def _full(place: Place) -> nn.Module | None:
    return full_attention(place.dim, place.heads) if _routes(place) else None


def _random(place: Place) -> nn.Module | None:
    topk, seed = _routes(place), 100 * place.stage + place.block
    return RandomRouting(place.dim, place.heads, WINDOW, topk, seed) if topk else None


def _routes(place: Place) -> int | None:
    """Regions that BRA routes to; None where it attends to all."""
    return PUBLISHED["biformer_stl"].topk[place.stage]


MIXERS: Mapping[str, Mixer] = {
    "bra": Mixer("BiFormer, CVPR 2023", lambda place: None),
    "random": Mixer("BRA with random routes", _random),
    "full": Mixer("BRA with routes to everything", _full),
    "window": Mixer("Swin without shifts, ICCV 2021", _window),
    "shifted-window": Mixer("Swin, ICCV 2021", partial(_window, shift=WINDOW // 2)),
    "sliding": Mixer(
        "neighbourhood attention, CVPR 2023",
        lambda place: SlidingAttention(place.dim, place.heads, WINDOW),
    ),
    "axial": Mixer("axial attention, 2019", _axial),
    "criss-cross": Mixer(
        "CCNet, ICCV 2019", lambda place: CrissCrossAttention(place.dim, place.heads)
    ),
    "cross-shaped": Mixer("CSWin, CVPR 2022", _cross_shaped),
    "separable": Mixer("Twins-SVT, NeurIPS 2021", _separable, positions=True),
    "deformable": Mixer("DAT, CVPR 2022", _deformable),
    "block-grid": Mixer(
        "MaxViT, ECCV 2022",
        lambda place: BlockGridAttention(place.dim, place.heads, WINDOW, place.odd),
    ),
    "wavelet": Mixer("WaveViT, ECCV 2022", _wavelet),
    "quadtree-a": Mixer("QuadTree, ICLR 2022, type A", partial(_quadtree, kind="A")),
    "quadtree-b": Mixer("QuadTree, ICLR 2022, type B", partial(_quadtree, kind="B")),
}
"""The mixers of the comparison by name."""
