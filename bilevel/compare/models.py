"""Whole models, beside those of one layout: what the papers publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from bilevel.compare.quadtree_models import QuadTree
from bilevel.compare.wavevit import WaveViT
from bilevel.models import biformer_base, biformer_small, biformer_tiny


def swin_tiny() -> nn.Module:
    """Swin-T, by timm."""
    import timm  # it takes seconds

    model: nn.Module = timm.create_model("swin_tiny_patch4_window7_224")
    return model


WHOLE: Mapping[str, Callable[[], nn.Module]] = {
    "Swin-T": swin_tiny,
    "QuadTree-B-b1": partial(QuadTree, "b1"),
    "QuadTree-B-b2": partial(QuadTree, "b2"),
    "WaveViT-S": WaveViT,
    "WaveViT-S*": partial(WaveViT, token_labels=True),
    "BiFormer-T": biformer_tiny,
    "BiFormer-S": biformer_small,
    "BiFormer-B": biformer_base,
    "BiFormer-S*": partial(biformer_small, token_labels=True),
    "BiFormer-B*": partial(biformer_base, token_labels=True),
}
"""By name, with 1000 classes, for images of 224 x 224. A star is for a head for token labels."""
