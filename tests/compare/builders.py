"""The layer of ours for each kind of golden case."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from bilevel.compare.axial import PositionSensitiveAxialAttention
from bilevel.compare.block_grid import BlockGridAttention
from bilevel.compare.criss_cross import CCNetAttention
from bilevel.compare.cross_shaped import CrossShapedAttention
from bilevel.compare.deformable import DeformableAttention
from bilevel.compare.pyramid import Block
from bilevel.compare.quadtree import QuadTreeAttention
from bilevel.compare.separable import GlobalSubsampledAttention, LocallyGroupedAttention
from bilevel.compare.wavelet import WaveletAttention
from bilevel.compare.wavevit import ClassBlock
from bilevel.compare.window import WindowAttention
from tests.golden.compare.cases import Case


def window(case: Case) -> nn.Module:
    n = case.numbers
    return WindowAttention(n["dim"], n["heads"], n["window"], n["shift"])


def local(case: Case) -> nn.Module:
    return LocallyGroupedAttention(case.numbers["dim"], case.numbers["heads"], case.numbers["ws"])


def subsampled(case: Case) -> nn.Module:
    n = case.numbers
    return GlobalSubsampledAttention(n["dim"], n["heads"], n.get("sr", 1))


def cross_shaped(case: Case) -> nn.Module:
    n, last = case.numbers, "last_stage" in case.name
    return CrossShapedAttention(n["dim"], n["heads"], n.get("split", case.size[0]), last)


def deformable(case: Case) -> nn.Module:
    n = case.numbers
    return DeformableAttention(
        n["dim"], n["heads"], n["groups"], case.size, n["k"], float(n.get("range", 2))
    )


def height(case: Case) -> nn.Module:
    n = case.numbers
    return PositionSensitiveAxialAttention(n["dim"], n["groups"], case.size[0], "height")


def width(case: Case) -> nn.Module:
    n = case.numbers
    return PositionSensitiveAxialAttention(n["dim"], n["groups"], case.size[1], "width")


def block(case: Case) -> nn.Module:
    n = case.numbers
    return BlockGridAttention(n["dim"], n["heads"], n["block"])


def grid(case: Case) -> nn.Module:
    n = case.numbers
    return BlockGridAttention(n["dim"], n["heads"], n["grid"], grid=True)


def wavelet(case: Case) -> nn.Module:
    n = case.numbers
    return WaveletAttention(n["dim"], n["heads"], n["sr"])


def quadtree_a(case: Case) -> nn.Module:
    return QuadTreeAttention(
        case.numbers["dim"], case.numbers["heads"], case.numbers["levels"], "A"
    )


def quadtree_b(case: Case) -> nn.Module:
    return QuadTreeAttention(
        case.numbers["dim"], case.numbers["heads"], case.numbers["levels"], "B"
    )


def in_block(attention: Callable[[Case], nn.Module]) -> Callable[[Case], nn.Module]:
    """A block around an attention."""
    return lambda case: Block(attention(case), case.numbers["dim"], case.numbers["mlp"])


def class_block(case: Case) -> nn.Module:
    return ClassBlock(case.numbers["dim"], case.numbers["heads"], case.numbers["mlp"])


BUILDERS: Mapping[str, Callable[[Case], nn.Module]] = {
    "swin_window_shift": window,
    "twins_lsa_ws": local,
    "twins_gsa_sr": subsampled,
    "cswin_split": cross_shaped,
    "cswin_last_stage": cross_shaped,
    "dat_v": deformable,
    "axial_deeplab_height": height,
    "axial_deeplab_width": width,
    "ccnet": lambda case: CCNetAttention(case.numbers["dim"]),
    "maxvit_stl_block": block,
    "maxvit_stl_grid": grid,
    "wave_attention": wavelet,
    "plain_attention": subsampled,
    "wave_block": in_block(wavelet),
    "plain_block": in_block(subsampled),
    "class_block": class_block,
    "typeA": quadtree_a,
    "typeB": quadtree_b,
    "block_typeA": in_block(quadtree_a),
    "block_typeB": in_block(quadtree_b),
}
"""By kind; a case of another kind is a mistake."""

AS_THEY_COME = ("ccnet", "axial_deeplab_height", "axial_deeplab_width", "class_block")
"""Kinds whose layers take the case's input as it is; others take tokens ``(N, H, W, C)``."""
