"""Layers are torch's own classes and see what torch says they see, so tools that walk modules are
right: converters, freezers, counters of operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bilevel import models
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention

BASES = (_ConvNd, _BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.Linear)
MICRO = BiFormerConfig(
    depths=(1, 1, 1),
    embed_dims=(8, 16, 32),
    topk=(2, 3, None),
    head_dim=8,
    regions=3,
    num_classes=5,
)
MICROS = {
    f"{layout} {variant} {padding}": replace(MICRO, layout=layout, variant=variant, padding=padding)
    for layout in ("biformer", "stl")
    for variant in ("legacy", "nchw")
    for padding in ("masked", "official")
}
CONFIGS = models.PUBLISHED | MICROS


def build(config: BiFormerConfig) -> BiFormer:
    torch.manual_seed(0)
    model = BiFormer(config).double()
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.add_(torch.rand_like(value))
    return model.eval()


@contextmanager
def watched(model: nn.Module, kinds: Any, hook: Callable[..., None]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(hook)
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    yield
    for handle in handles:
        handle.remove()


def assert_plain(model: nn.Module, number: int) -> None:
    """So many layers, each of exactly a class of torch."""
    derived = [module for module in model.modules() if isinstance(module, BASES)]
    assert len(derived) == number
    for module in derived:
        assert type(module) is getattr(nn, type(module).__name__, None), module
        assert type(module).__module__.startswith("torch.nn.modules."), module


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_of_a_model_is_exactly_torchs(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        model = BiFormer(config)
    of_block = 8 if config.layout == "biformer" else 7
    stem = 4 if config.layout == "biformer" else 2
    stages = len(config.depths)
    assert_plain(model, of_block * sum(config.depths) + stem + 2 * (stages - 1) + 2)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_layer_of_the_attention_is_exactly_torchs(axes: int) -> None:
    layer = BiLevelRoutingAttention(16, 2, regions=2, spatial_dims=axes)
    assert_plain(layer, 3)
    assert type(layer.lce) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]


@pytest.mark.parametrize("name", CONFIGS)
def test_convolutions_and_batch_norms_see_nchw(name: str) -> None:
    """On a CPU in memory of the order channels last; what has no memory has no such order."""
    seen = []

    def hook(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        channels = module.in_channels if isinstance(module, nn.Conv2d) else module.num_features
        assert args[0].ndim == out.ndim == 4
        assert args[0].shape[1] == channels
        assert name not in MICROS or args[0].stride(1) == out.stride(1) == 1
        seen.append(module)

    with torch.device("cpu" if name in MICROS else "meta"):
        model, images = BiFormer(CONFIGS[name]).eval(), torch.zeros(2, 3, 96, 80)
    with watched(model, (nn.Conv2d, nn.BatchNorm2d), hook):
        model(images)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    assert sorted(map(id, seen)) == sorted(map(id, layers))


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_convolution_of_the_attention_sees_channels_first(
    axes: int, channels_first: bool
) -> None:
    layer = BiLevelRoutingAttention(
        16, 2, regions=2, spatial_dims=axes, channels_first=channels_first
    )
    seen = []
    size = (4, 5, 6)[:axes]
    x = torch.randn(2, 16, *size) if channels_first else torch.randn(2, *size, 16)
    with watched(layer, _ConvNd, lambda _, args, out: seen.extend([args[0].shape, out.shape])):
        layer(x)
    assert seen == [(2, 16, *size)] * 2


def synchronised(model: BiFormer) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def frozen(model: BiFormer) -> Any:
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(model)


def frozen_stem(model: BiFormer) -> Any:
    from timm.utils import freeze

    freeze(model, ["downsamples.0"])
    return model


@pytest.mark.parametrize("convert", [synchronised, frozen, frozen_stem])
@pytest.mark.parametrize("name", MICROS)
def test_converted_batch_norms_keep_the_numbers(
    name: str, convert: Callable[[BiFormer], Any]
) -> None:
    model = build(MICROS[name])
    images = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    converted = convert(copy.deepcopy(model))
    assert [type(m) for m in converted.modules()] != [type(m) for m in model.modules()]
    with torch.no_grad():
        torch.testing.assert_close(converted(images), model(images), rtol=1e-12, atol=1e-14)


def multiply_adds(config: BiFormerConfig, size: tuple[int, int]) -> int:
    """Of convolutions and linear layers, for one image whose size all strides divide."""
    total, width, (h, w) = 0, config.in_chans, size
    for stage, (dim, depth) in enumerate(zip(config.embed_dims, config.depths, strict=True)):
        step = 4 if stage == 0 else 2
        before, h, w = h * w, h // step, w // step
        tokens = h * w
        if config.layout == "stl":
            total += tokens * dim * width * step**2
        elif stage == 0:
            total += before // 4 * dim // 2 * width * 9 + tokens * dim * dim // 2 * 9
        else:
            total += tokens * dim * width * 9
        linear = 4 * dim * dim + 2 * config.mlp_ratio * dim * dim
        depthwise = dim * 25 + (dim * 9 if config.layout == "biformer" else 0)
        total += depth * tokens * (linear + depthwise)
        width = dim
    return total + width * config.num_classes


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_operations_counted_by_hooks_are_exact(name: str) -> None:
    counts: list[int] = []

    def hook(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.weight[0, 0].numel()
        else:
            per_output = module.in_features
        counts.append(out.numel() * per_output)

    config = models.PUBLISHED[name]
    with torch.device("meta"):
        model, image = BiFormer(config).eval(), torch.empty(1, 3, 224, 448)
    with watched(model, (nn.Conv2d, nn.Linear), hook):
        model(image)
    assert sum(counts) == multiply_adds(config, (224, 448))
