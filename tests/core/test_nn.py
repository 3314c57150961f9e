"""The layer to put in other models: its numbers, its sizes, its errors."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import bilevel
from bilevel import registry
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (23,), 2: (11, 9), 3: (4, 7, 6)}


def layer(
    dim: int = 16, num_heads: int = 2, seed: int = 0, **options: Any
) -> BiLevelRoutingAttention:
    torch.manual_seed(seed)
    return BiLevelRoutingAttention(dim, num_heads, **options).double()


def tokens(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(
    m: BiLevelRoutingAttention,
    x: Tensor,
    regions: int | tuple[int, ...],
    topk: int,
    scale: float | None = None,
) -> Tensor:
    """Linear, bra and a depthwise convolution, on ``(N, *spatial, C)``."""
    qkv = F.linear(x, m.qkv.weight, m.qkv.bias)
    q, k, v = (y.unflatten(-1, (m.num_heads, -1)).contiguous() for y in qkv.chunk(3, -1))
    out = bilevel.bra(q, k, v, topk=topk, regions=regions, scale=scale).flatten(-2)
    if m.lce is not None:
        values = v.flatten(-2).movedim(-1, 1).contiguous()
        weight, bias = m.lce.weight, m.lce.bias
        conv = CONV[x.ndim - 2](values, weight, bias, padding="same", groups=x.shape[-1])
        out = out + conv.movedim(1, -1)
    return F.linear(out, m.proj.weight, m.proj.bias)


@pytest.mark.parametrize(
    "options",
    [{}, {"lce_kernel": 3}, {"lce_kernel": 0}, {"qkv_bias": False}, {"scale": 0.3}],
    ids=str,
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_is_projections_attention_and_convolution(axes: int, options: dict[str, Any]) -> None:
    m, x = layer(regions=3, topk=2, spatial_dims=axes, **options), tokens(2, *SIZES[axes], 16)
    assert (m.qkv.bias is None) == (options.get("qkv_bias") is False)
    assert torch.allclose(m(x), by_hand(m, x, 3, 2, options.get("scale")), rtol=1e-10, atol=1e-12)


def test_the_scale_is_that_of_one_head_unless_given() -> None:
    x = tokens(1, 8, 8, 16)
    assert torch.equal(layer()(x), layer(scale=8**-0.5)(x))
    assert not torch.allclose(layer()(x), layer(scale=16**-0.5)(x))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_channels_first_is_the_same_transposed(axes: int) -> None:
    options = {"regions": 3, "spatial_dims": axes}
    m, x = layer(channels_first=True, **options), tokens(2, *SIZES[axes], 16)
    expected = layer(**options)(x).movedim(-1, 1)
    for first in (x.movedim(-1, 1), x.movedim(-1, 1).contiguous()):
        assert torch.allclose(m(first), expected, rtol=1e-12, atol=1e-14)


def test_regions_per_axis() -> None:
    m, x = layer(regions=(4, 1, 2), topk=3, spatial_dims=3), tokens(1, 9, 5, 4, 16)
    assert torch.allclose(m(x), by_hand(m, x, (4, 1, 2), 3), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(m(x), by_hand(m, x, (2, 1, 4), 3))


@pytest.mark.parametrize(
    ("size", "regions", "topk"),
    [((1, 1), (1, 1), 1), ((1, 9), (1, 4), 4), ((2, 2), (2, 2), 4), ((3, 17), (3, 4), 6)],
)
def test_a_small_map_lowers_regions_and_topk(
    size: tuple[int, ...], regions: tuple[int, ...], topk: int
) -> None:
    m, x = layer(regions=4, topk=6), tokens(2, *size, 16)
    assert torch.allclose(m(x), by_hand(m, x, regions, topk), rtol=1e-10, atol=1e-12)


def test_official_padding_adds_zeros_that_are_attended_to() -> None:
    """Up to a multiple of the regions of each axis, before the projections."""
    m, x = layer(regions=(3, 4), topk=2, padding="official"), tokens(2, 10, 9, 16)
    expected = by_hand(m, F.pad(x, (0, 0, 0, 3, 0, 2)), (3, 4), 2)[:, :10, :9]
    assert torch.allclose(m(x), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(m(x), layer(regions=(3, 4), topk=2)(x))


def test_official_padding_of_the_other_variant_is_that_of_a_model() -> None:
    config = BiFormerConfig(
        depths=(1,), embed_dims=(16,), topk=(2,), head_dim=8, regions=3, num_classes=0
    )
    config = replace(config, padding="official", variant="nchw")
    block = BiFormer(config).double().get_submodule("stages.0.0.attention")
    m, x = (
        layer(regions=3, topk=2, scale=16**-0.5, padding="official", variant="nchw"),
        tokens(2, 10, 7, 16),
    )
    m.load_state_dict(block.state_dict())
    assert torch.equal(m(x), block(x))
    other = layer(regions=3, topk=2, scale=16**-0.5, padding="official")
    other.load_state_dict(block.state_dict())
    assert not torch.allclose(other(x), m(x))


def test_parameters_are_of_the_device_and_dtype_asked_for() -> None:
    m = BiLevelRoutingAttention(16, 2, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in m.parameters()} == {("meta", torch.bfloat16)}
    assert len(list(m.parameters())) == 6


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_gradients_flow_to_input_and_every_parameter(axes: int, channels_first: bool) -> None:
    m = layer(regions=2, topk=2, spatial_dims=axes, channels_first=channels_first)
    shape = (1, 16, *SIZES[axes]) if channels_first else (1, *SIZES[axes], 16)
    x = tokens(*shape).requires_grad_()
    m(x).square().sum().backward()
    assert sorted(name.partition(".")[0] for name, _ in m.named_children()) == [
        "lce",
        "proj",
        "qkv",
    ]
    for name, y in (*m.named_parameters(), ("x", x)):
        assert y.grad is not None
        assert y.grad.isfinite().all(), name
        assert y.grad.abs().sum() > 0, name


def test_queries_keys_values_are_views_and_the_convolution_is_channels_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is copied between the projection and who computes the attention."""
    seen: dict[str, Any] = {}

    def spied_bra(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        seen["qkv"] = q, k, v
        return bilevel.bra(q, k, v, **options)

    monkeypatch.setattr("bilevel.attention.bra", spied_bra)
    m = layer(channels_first=True)
    assert m.lce is not None
    m.qkv.register_forward_hook(lambda _, x, out: seen.update(fused=out))
    m.lce.register_forward_hook(lambda _, x, out: seen.update(local=x[0]))
    out = m(tokens(2, 16, 9, 8))
    storage = seen["fused"].untyped_storage().data_ptr()
    for y in (*seen["qkv"], seen["local"]):
        assert y.untyped_storage().data_ptr() == storage
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_block_of_biformer_is_this_layer() -> None:
    config = BiFormerConfig(
        depths=(1, 1), embed_dims=(16, 32), head_dim=8, topk=(3, 2), regions=3, num_classes=0
    )
    block = BiFormer(config).double().stages[1][0].attention
    mine = layer(32, 4, regions=3, topk=2, scale=32**-0.5)
    assert {type(block), type(mine)} == {BiLevelRoutingAttention}
    x = tokens(2, 10, 7, 32)
    assert not torch.allclose(mine(x), block(x))
    mine.load_state_dict(block.state_dict())
    assert torch.equal(mine(x), block(x))


def test_copies_and_saved_weights_give_the_same(tmp_path: Path) -> None:
    m, x = layer(regions=3), tokens(2, 7, 8, 16)
    expected = m(x)
    assert torch.equal(copy.deepcopy(m)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(m))(x), expected)
    torch.save(m.state_dict(), tmp_path / "layer.pt")
    other = layer(regions=3, seed=5)
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other(x), expected)
    names = ["qkv.weight", "qkv.bias", "lce.weight", "lce.bias", "proj.weight", "proj.bias"]
    assert list(m.state_dict()) == names
    assert m.state_dict()["lce.weight"].shape == (16, 1, 5, 5)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, axes: int) -> None:
    """Within a few roundings of the values, which are below 1."""
    m, x = layer(regions=1, topk=1, spatial_dims=axes), tokens(2, *SIZES[axes], 16)
    expected, error = m(x), 4 * torch.finfo(dtype).eps
    found = m.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, rtol=0, atol=error)


def test_autocast() -> None:
    m, x = layer(regions=1, topk=1).float(), tokens(2, 8, 8, 16).float()
    expected = m(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = m(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, rtol=0, atol=4 * torch.finfo(found.dtype).eps)
    found.sum().backward()
    assert m.qkv.weight.grad is not None
    assert m.qkv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 8, 8, 16), (0, 11, 9, 16)])
def test_no_images(shape: tuple[int, ...]) -> None:
    assert layer(regions=4)(tokens(*shape)).shape == shape


def test_the_backend_is_passed_on() -> None:
    x = tokens(1, 8, 8, 16)
    seen: list[Tensor] = []
    torch_backend = registry.load("torch")
    assert torch_backend.bra is not None

    def recorded(q: Tensor, *arguments: Any) -> Tensor:
        seen.append(q)
        return torch_backend.bra(q, *arguments)  # type: ignore[misc] # not None, see above

    layer(backend=replace(torch_backend, bra=recorded))(x)
    assert len(seen) == 1
    with pytest.raises(bilevel.BackendUnavailable, match="'nowhere'"):
        layer(backend="nowhere")(x)


def test_its_repr_says_how_it_was_built() -> None:
    assert "(N, *spatial, C), num_heads=2, regions=(7, 7), topk=4, scale=0.3536" in repr(layer())
    m = layer(channels_first=True, regions=(2, 3), padding="official")
    assert "(N, C, *spatial), num_heads=2, regions=(2, 3)" in repr(m)
    assert "padding='official', variant='legacy'" in repr(m)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dim": 30, "num_heads": 4},
            "expected num_heads to divide dim, got dim 30 and num_heads 4",
        ),
        ({"dim": 0}, "expected dim to be an integer of at least 1, got 0"),
        ({"dim": 16.0}, r"expected dim to be an integer of at least 1, got 16\.0"),
        ({"num_heads": -2}, "expected num_heads to be an integer .*, got -2"),
        ({"num_heads": True}, "expected num_heads to be an integer .*, got True"),
        ({"topk": 0}, "expected topk to be an integer of at least 1, got 0"),
        ({"topk": 1.5}, r"expected topk to be an integer of at least 1, got 1\.5"),
        ({"regions": 0}, "expected regions to be one positive integer, .* 2 spatial axes, got 0"),
        ({"regions": (7, 0)}, r"expected regions to be .*, got \(7, 0\)"),
        ({"regions": (7, 7, 7)}, r"one for each of the 2 spatial axes, got \(7, 7, 7\)"),
        ({"regions": "77"}, "expected regions to be .*, got '77'"),
        ({"lce_kernel": 4}, "expected lce_kernel to be odd, or 0 .*, got 4"),
        ({"lce_kernel": -1}, "expected lce_kernel to be an integer of at least 0, got -1"),
        ({"spatial_dims": 4}, "expected spatial_dims to be an integer from 1 to 3, got 4"),
        ({"spatial_dims": 0}, "expected spatial_dims to be an integer from 1 to 3, got 0"),
        ({"scale": float("nan")}, "expected scale to be a finite number.*, got nan"),
        ({"padding": "zeros"}, "padding to be one of 'masked', 'official', got 'zeros'"),
        ({"variant": "new"}, "variant to be one of 'legacy', 'nchw', got 'new'"),
        (
            {"padding": "official", "spatial_dims": 3},
            "expected padding='masked' but for 2 spatial axes, .* got 'official' for 3",
        ),
    ],
    ids=str,
)
def test_arguments_without_a_meaning_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bilevel.ArgumentError, match=message):
        BiLevelRoutingAttention(**({"dim": 16, "num_heads": 2} | options))


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, (2, 16, 8, 8), "(N, H, W, 16)"),
        ({}, (8, 8, 16), "(N, H, W, 16)"),
        ({}, (2, 4, 8, 8, 16), "(N, H, W, 16)"),
        ({"channels_first": True}, (2, 8, 8, 16), "(N, 16, H, W)"),
        ({"spatial_dims": 1}, (2, 8, 8, 16), "(N, L, 16)"),
        ({"spatial_dims": 3, "channels_first": True}, (2, 16, 8, 8), "(N, 16, D, H, W)"),
        ({"padding": "official"}, (2, 8, 8, 17), "(N, H, W, 16)"),
    ],
    ids=str,
)
def test_input_of_another_shape_is_an_error(
    options: dict[str, Any], shape: tuple[int, ...], expected: str
) -> None:
    said = re.escape(f"expected x of shape {expected}, got {shape}; move its axes")
    with pytest.raises(bilevel.ShapeError, match=said):
        layer(**options)(tokens(*shape))


def test_an_empty_axis_is_an_error() -> None:
    with pytest.raises(bilevel.ShapeError, match="expected no empty axis but N"):
        layer()(tokens(1, 0, 8, 16))


def test_heads_of_32_channels_where_their_number_is_not_said() -> None:
    assert BiLevelRoutingAttention(96).num_heads == 3
    torch.manual_seed(0)
    unsaid = BiLevelRoutingAttention(64, regions=2, channels_first=True)
    torch.manual_seed(0)
    said = BiLevelRoutingAttention(64, 2, regions=2, channels_first=True)
    x = torch.randn(1, 64, 5, 6)
    assert torch.equal(unsaid(x), said(x))
    with pytest.raises(
        bilevel.ShapeError, match="expected dim to be a multiple of 32 where num_heads is"
    ):
        BiLevelRoutingAttention(48)
