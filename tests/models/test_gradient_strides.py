"""Gradients have the strides of their parameters, as DistributedDataParallel wants them."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bilevel import models
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention
from bilevel.official_padding import Padding

MICRO = BiFormerConfig(
    depths=(1, 1), embed_dims=(16, 32), topk=(2, None), head_dim=16, regions=3, num_classes=5
)
CHANNELS: dict[Padding, int] = {"masked": 3, "official": 1}
SHALLOW = {
    name: replace(config, depths=(1,) * len(config.depths), num_classes=5)
    for name, config in models.PUBLISHED.items()
}
MICROS = {
    f"{layout} {variant} {padding}": replace(
        MICRO, layout=layout, variant=variant, padding=padding, in_chans=channels
    )
    for layout in ("biformer", "stl")
    for variant in ("legacy", "nchw")
    for padding, channels in CHANNELS.items()
}


def assert_strides_agree(model: nn.Module, x: Tensor) -> None:
    model(x).square().sum().backward()
    strides = {
        name: (parameter.stride(), parameter.grad.stride())
        for name, parameter in model.named_parameters()
    }
    assert strides
    assert {name: pair for name, pair in strides.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.preserve_format, torch.channels_last])
@pytest.mark.parametrize("name", MICROS)
def test_of_every_small_model(name: str, order: torch.memory_format, dtype: torch.dtype) -> None:
    config = MICROS[name]
    model = BiFormer(config).to(dtype=dtype, memory_format=order)
    images = torch.randn(2, config.in_chans, 40, 36, dtype=dtype)
    assert_strides_agree(model, images.to(memory_format=order))


@pytest.mark.parametrize("name", SHALLOW)
def test_of_the_widths_of_every_published_model(name: str) -> None:
    assert_strides_agree(BiFormer(SHALLOW[name]), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_of_the_layer(axes: int, kernel: int, channels_first: bool, dtype: torch.dtype) -> None:
    layer = BiLevelRoutingAttention(
        8,
        2,
        regions=2,
        lce_kernel=kernel,
        channels_first=channels_first,
        spatial_dims=axes,
        dtype=dtype,
    )
    size = (5, 4, 6)[:axes]
    shape = (2, 8, *size) if channels_first else (2, *size, 8)
    assert_strides_agree(layer, torch.randn(shape, dtype=dtype))


def saved_and_loaded(model: BiFormer) -> BiFormer:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def loaded(model: BiFormer) -> BiFormer:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    other = BiFormer(model.config)
    other.load_state_dict(weights)
    return other


def loaded_from_official(model: BiFormer) -> BiFormer:
    other = BiFormer(model.config)
    official = models.to_official(model.state_dict(), model.config)
    other.load_state_dict(models.from_official(official, model.config))
    return other


def begun_without_memory(model: BiFormer) -> BiFormer:
    with torch.device("meta"):
        other = BiFormer(model.config)
    other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        saved_and_loaded,
        loaded,
        loaded_from_official,
        begun_without_memory,
        lambda model: model.double().float(),
    ],
)
def test_of_copies(copied: Callable[[BiFormer], BiFormer]) -> None:
    assert_strides_agree(copied(BiFormer(MICRO)), torch.randn(2, 3, 40, 36))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process, in which torch repeats its warnings."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "build",
    [
        lambda: (BiFormer(MICRO), torch.randn(2, 3, 40, 36)),
        lambda: (BiFormer(replace(MICRO, layout="stl")), torch.randn(2, 3, 40, 36)),
        lambda: (BiLevelRoutingAttention(8, 2, regions=2), torch.randn(2, 5, 6, 8)),
    ],
)
def test_distributed_training_does_not_warn(build: Callable[[], Any]) -> None:
    model, x = build()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parallel = DistributedDataParallel(model)
        for _ in range(2):
            parallel(x).square().sum().backward()
    assert [str(each.message) for each in said] == []
