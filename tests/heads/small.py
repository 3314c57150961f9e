"""A small backbone, and targets for detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.models import Backbone, BiFormerConfig

SMALL = BiFormerConfig(
    depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), head_dim=8, regions=3, topk=(1, 2, 4, None)
)


def small(*out_indices: int) -> Backbone:
    torch.manual_seed(0)
    return Backbone(SMALL, out_indices or None)


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets(label: int = 1) -> dict[str, Tensor]:
    """A square of 24 pixels."""
    masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
    masks[:, 8:32, 16:40] = 1
    boxes = torch.tensor([[16.0, 8.0, 40.0, 32.0]])
    return {"boxes": boxes, "labels": torch.tensor([label]), "masks": masks}
