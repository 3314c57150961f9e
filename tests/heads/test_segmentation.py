"""The head for semantic segmentation, held to its description step by step."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel import ArgumentError, ShapeError
from bilevel.heads import SemanticFPN
from bilevel.models import BiFormer, BiFormerConfig

WIDTHS = (8, 16, 32, 64)


def maps(height: int, width: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(ceil(height / s), ceil(width / s)) for s in (4, 8, 16, 32)]
    return [
        torch.randn(batch, c, *size, generator=generator, dtype=torch.float64)
        for c, size in zip(WIDTHS, sizes, strict=True)
    ]


def by_hand(head: SemanticFPN, x: list[Tensor]) -> Tensor:
    """From the description, with the weights of ``head`` by their names alone."""
    weights = head.state_dict()

    def conv(x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)

    lateral = [conv(y, f"pyramid.inner_blocks.{i}.0", 0) for i, y in enumerate(x)]
    for finer, coarser in reversed(list(pairwise(range(4)))):
        lateral[finer] = lateral[finer] + F.interpolate(
            lateral[coarser], size=lateral[finer].shape[-2:], mode="nearest"
        )
    pyramid = [conv(y, f"pyramid.layer_blocks.{i}.0", 1) for i, y in enumerate(lateral)]
    total = torch.zeros(())
    for level, y in enumerate(pyramid):
        for step in range(max(1, level)):
            at = f"levels.{level}.{step * (4 if level else 3)}"
            norm = f"levels.{level}.{step * (4 if level else 3) + 1}"
            y = conv(y, at, 1)
            mean, var = (weights[f"{norm}.running_{s}"][:, None, None] for s in ("mean", "var"))
            scale, shift = (weights[f"{norm}.{s}"][:, None, None] for s in ("weight", "bias"))
            y = ((y - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)
            if level:
                y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        if y.shape[-2:] != x[0].shape[-2:]:
            y = F.interpolate(y, size=x[0].shape[-2:], mode="bilinear", align_corners=False)
        total = total + y
    return conv(total, "classifier", 0)


def test_it_computes_what_is_described() -> None:
    torch.manual_seed(0)
    head = SemanticFPN(WIDTHS, 5, channels=12, pyramid_channels=16).double()
    for name, value in head.state_dict().items():
        if value.is_floating_point() and "running_mean" not in name:
            value.add_(0.1 * torch.rand_like(value))
    head.eval()
    for size in ((64, 96), (52, 100), (33, 40)):
        x = maps(*size)
        torch.testing.assert_close(head(x), by_hand(head, x), rtol=1e-10, atol=1e-10)


def test_it_learns_with_a_biformer() -> None:
    torch.manual_seed(0)
    model = BiFormer(BiFormerConfig((1, 1, 1, 1), WIDTHS, head_dim=8, regions=3))
    head = SemanticFPN(WIDTHS, 3, channels=8, pyramid_channels=8)
    images = torch.randn(2, 3, 76, 100)
    features = model.forward_intermediates(images, intermediates_only=True)
    logits = head(features)
    assert logits.shape == (2, 3, 19, 25)
    F.cross_entropy(logits, torch.ones(2, 19, 25, dtype=torch.long)).backward()
    unused = {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    for part in (model, head):
        without = {name for name, p in part.named_parameters() if p.grad is None}
        assert without <= unused


def test_what_does_not_fit_is_an_error() -> None:
    head = SemanticFPN(WIDTHS, 3, channels=8, pyramid_channels=8).double()
    with pytest.raises(ShapeError, match=r"of \(8, 16, 32, 64\) channels, got \(2, 16, 8, 8\), "):
        head(maps(64, 64)[1:])
    with pytest.raises(ArgumentError, match="expected num_classes to be an integer of at least 1"):
        SemanticFPN(WIDTHS, 0)
    with pytest.raises(ArgumentError, match=r"expected in_channels to be an integer .*got True"):
        SemanticFPN((True, 2), 1)
