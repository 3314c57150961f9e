"""A small model, and all of its layouts, variants and paddings."""

from __future__ import annotations

from dataclasses import replace

from bilevel.models import BiFormerConfig

MICRO = BiFormerConfig(
    depths=(1, 2, 1),
    embed_dims=(8, 16, 32),
    topk=(1, 3, None),
    head_dim=8,
    regions=3,
    num_classes=5,
)
VARIANTS = {
    f"{layout} {variant} {padding}": replace(MICRO, layout=layout, variant=variant, padding=padding)
    for layout in ("biformer", "stl")
    for variant in ("legacy", "nchw")
    for padding in ("masked", "official")
}
