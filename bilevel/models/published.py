"""The published models (table 1 of the paper) as torch modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bilevel.models.config import PUBLISHED
from bilevel.models.model import BiFormer
from bilevel.official_padding import Padding
from bilevel.protocol import Backend


def _builder(name: str, about: str) -> Callable[..., BiFormer]:
    published = PUBLISHED[name]

    def build(
        num_classes: int = published.num_classes,
        in_chans: int = published.in_chans,
        *,
        regions: int = published.regions,
        drop_path: float = published.drop_path,
        padding: Padding = published.padding,
        token_labels: bool = published.token_labels,
        backend: str | Backend | None = None,
    ) -> BiFormer:
        config = replace(
            published,
            num_classes=num_classes,
            in_chans=in_chans,
            regions=regions,
            drop_path=drop_path,
            padding=padding,
            token_labels=token_labels,
        )
        return BiFormer(config, backend)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{about} Arguments are fields of BiFormerConfig, and the attention's backend."
    return build


biformer_tiny = _builder("biformer_tiny", "BiFormer-T: 13.1 M parameters, 2.2 GMACs at 224.")
biformer_small = _builder("biformer_small", "BiFormer-S: 25.5 M parameters, 4.5 GMACs at 224.")
biformer_base = _builder("biformer_base", "BiFormer-B: 56.8 M parameters, 9.8 GMACs at 224.")
biformer_stl = _builder("biformer_stl", "BiFormer-STL: the layout of Swin-T, 28.4 M parameters.")
biformer_stl_nchw = _builder("biformer_stl_nchw", "BiFormer-STL by the official nchw code.")
