"""UPerNet's head, held to its description step by step, and whole segmenters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel import ShapeError, heads
from bilevel.heads.pyramid_pooling import Auxiliary, Pool, UPerNet
from bilevel.heads.segmenter import segmentation_loss
from tests.golden.numbers import DENSE_KEYS
from tests.heads.small import small

WIDTHS = (8, 16, 32, 64)


def maps(height: int, width: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(
            batch, c, -(-height // s), -(-width // s), generator=generator, dtype=torch.float64
        )
        for c, s in zip(WIDTHS, (4, 8, 16, 32), strict=True)
    ]


def drawn(module: nn.Module) -> nn.Module:
    """With numbers in the place of zeros and ones."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and "running_mean" not in name:
            value.add_(0.1 * torch.rand_like(value))
    return module.double().eval()


def unit(x: Tensor, at: str, weights: dict[str, Tensor]) -> Tensor:
    """A convolution, normalisation, activation, by the names of their weights."""
    kernel = weights[f"{at}.0.weight"]
    x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
    mean, var, scale, shift = (
        weights[f"{at}.1.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def by_hand(head: UPerNet, x: list[Tensor]) -> Tensor:
    weights = head.state_dict()
    pooled = [
        enlarged(unit(F.adaptive_avg_pool2d(x[3], size), f"pooled.{i}.1", weights), x[3])
        for i, size in enumerate((1, 2, 3, 6))
    ]
    p5 = unit(torch.cat([x[3], *pooled], 1), "bottleneck", weights)
    p4 = unit(x[2], "lateral.2", weights) + enlarged(p5, x[2])
    p3 = unit(x[1], "lateral.1", weights) + enlarged(p4, x[1])
    p2 = unit(x[0], "lateral.0", weights) + enlarged(p3, x[0])
    smooth = [unit(p, f"smooth.{i}", weights) for i, p in enumerate((p2, p3, p4))]
    joined = torch.cat([enlarged(p, x[0]) for p in (*smooth, p5)], 1)
    fused = unit(joined, "fuse", weights)
    return F.conv2d(fused, weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.parametrize("size", [(64, 96), (52, 100), (33, 40), (224, 224)])
def test_upernet_computes_what_is_described(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = drawn(UPerNet(WIDTHS, 5, channels=12))
    assert isinstance(head, UPerNet)
    x = maps(*size)
    torch.testing.assert_close(head(x), by_hand(head, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (16, 16), (17, 25)])
@pytest.mark.parametrize("pool", [1, 2, 3, 6])
def test_pool_is_torchs(size: tuple[int, int], pool: int) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    wanted = F.adaptive_avg_pool2d(x, pool)
    torch.testing.assert_close(Pool(pool)(x), wanted, rtol=1e-12, atol=1e-12)


def unit_parameters(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + 2 * outputs


def official_upernet(widths: list[int], classes: int) -> int:
    """Parameters of both heads by the official config: 512 and 256 channels."""
    head = 4 * unit_parameters(widths[-1], 512, 1) + unit_parameters(widths[-1] + 2048, 512, 3)
    head += sum(unit_parameters(w, 512, 1) + unit_parameters(512, 512, 3) for w in widths[:3])
    head += unit_parameters(2048, 512, 3) + 512 * classes + classes
    return head + unit_parameters(widths[2], 256, 3) + 256 * classes + classes


def official_semantic_fpn(widths: list[int], classes: int) -> int:
    """The same: a pyramid of 256 channels, one, one, two and three convolutions to 128."""
    pyramid = sum(256 * w + 256 + 256 * 256 * 9 + 256 for w in widths)
    head = 4 * unit_parameters(256, 128, 3) + 3 * unit_parameters(128, 128, 3)
    return pyramid + head + 128 * classes + classes


@pytest.mark.parametrize("name", ["biformer_small", "biformer_base"])
def test_parameters_are_the_official_ones(name: str) -> None:
    whole = DENSE_KEYS["params"][name]
    for head, official in (("upernet", official_upernet), ("semantic_fpn", official_semantic_fpn)):
        with torch.device("meta"):
            model = getattr(heads, head)(heads.backbone(name, head), 150)
        found = sum(p.numel() for p in model.parameters())
        assert found == whole + official(model.backbone.out_channels, 150)


@pytest.mark.parametrize("head", ["upernet", "semantic_fpn"])
def test_a_segmenter_trains_all_its_parameters(head: str) -> None:
    build = heads.upernet if head == "upernet" else heads.semantic_fpn
    model = build(small(), 3, channels=8).train()
    images, labels = torch.rand(2, 3, 76, 100), torch.randint(3, (2, 76, 100))
    labels[:, :9] = 255
    segmentation_loss(model(images), labels).backward()
    assert all(p.grad is not None for p in model.parameters())
    logits = model.eval()(images)
    assert logits.shape == (2, 3, 76, 100)
    assert model.config == model.backbone.config


def test_the_loss_is_the_mean_of_labelled_pixels_and_of_the_auxiliary_head() -> None:
    logits, auxiliary = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    labels = torch.randint(4, (2, 6, 5))
    labels[0, :2], labels[1, 3] = 255, 255
    of = F.cross_entropy(logits, labels, ignore_index=255)
    beside = F.cross_entropy(auxiliary, labels, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, labels), of)
    torch.testing.assert_close(segmentation_loss((logits, auxiliary), labels), of + 0.4 * beside)
    nothing = torch.full_like(labels, 255)
    assert segmentation_loss((logits, auxiliary), nothing) == 0


def test_the_auxiliary_head_is_on_the_third_map() -> None:
    model = heads.upernet(small(), 3, channels=8)
    assert isinstance(model.auxiliary, Auxiliary)
    assert model.auxiliary.conv[0].in_channels == 32


def test_maps_that_do_not_fit_are_an_error() -> None:
    head = UPerNet(WIDTHS, 3, channels=8).double()
    with pytest.raises(ShapeError, match=r"of \(8, 16, 32, 64\) channels, got \(2, 16, 8, 8\), "):
        head(maps(64, 64)[1:])
