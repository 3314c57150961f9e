"""Routes of layers and models: those that attention took, and nothing else changed."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilevel import ArgumentError, Routes, ShapeError, models
from bilevel.attention import routes_of
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention
from tests.models.variants import MICRO, VARIANTS


def build(config: BiFormerConfig) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(config).double().eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hooks(model: nn.Module, x: Tensor) -> list[Routes]:
    """From what each routed attention was given."""
    given: list[tuple[BiLevelRoutingAttention, Tensor]] = []
    handles = [
        m.register_forward_hook(lambda m, args, _: given.append((m, args[0])))
        for m in model.modules()
        if isinstance(m, BiLevelRoutingAttention)
    ]
    with torch.no_grad():
        model(x)
        for handle in handles:
            handle.remove()
        return [m(tokens, return_routes=True)[1] for m, tokens in given]


@pytest.mark.parametrize("name", VARIANTS)
def test_of_a_model_they_are_those_of_its_layers(name: str) -> None:
    model, x = build(VARIANTS[name]), images(2, 3, 72, 56)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = models.routes(model, x)
    assert [len(stage) for stage in found] == [1, 2, 1]
    assert found[2] == [None]
    routed = [routes for stage in found for routes in stage if routes is not None]
    for routes, want in zip(routed, by_hooks(model, x), strict=True):
        assert torch.equal(routes.index, want.index)
        assert want.score is not None
        torch.testing.assert_close(routes.score, want.score)
        assert not want.score.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", VARIANTS)
def test_arrays_route_as_torch_does(name: str) -> None:
    model, x = build(VARIANTS[name]), images(2, 3, 72, 56)
    params = {key: value.numpy() for key, value in model.state_dict().items()}
    found = models.routes(models.bind(model.config, params), x.numpy())
    for ours, theirs in zip(chain(*found), chain(*models.routes(model, x)), strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours is not None
            assert theirs.score is not None
            assert ours.score is not None
            np.testing.assert_array_equal(ours.index, theirs.index.numpy())
            np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-9, atol=1e-12)


def test_they_are_of_images_and_a_model_in_eval_mode() -> None:
    with pytest.raises(ShapeError, match=r"expected images \(N, C, H, W\), got \(3, 72, 56\)"):
        models.routes(build(MICRO), images(3, 72, 56))
    with pytest.raises(ArgumentError, match=r"expected a model in eval mode, .*; call model\.eval"):
        models.routes(build(MICRO).train(), images(1, 3, 72, 56))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("channels_first", [False, True])
def test_of_a_layer(axes: int, channels_first: bool) -> None:
    """The output is the same, and the first half of the attention gives the same routes."""
    torch.manual_seed(0)
    layer = BiLevelRoutingAttention(
        16, 2, regions=2, topk=2, spatial_dims=axes, channels_first=channels_first
    ).double()
    tokens = images(2, *(5, 6, 7)[:axes], 16)
    x = tokens.movedim(-1, 1) if channels_first else tokens
    out, routes = layer(x, return_routes=True)
    assert torch.equal(out, layer(x))
    first_half = routes_of(layer, tokens)
    assert routes.index.shape == (2, 2**axes, 2)
    assert torch.equal(routes.index, first_half.index)
    torch.testing.assert_close(routes.score, first_half.score)


def test_scores_of_official_nchw_padding_are_of_means_without_padding() -> None:
    """7 tokens on an axis make regions of 2, and a fourth region of 1."""
    layer = BiLevelRoutingAttention(
        8, 1, regions=3, topk=16, padding="official", variant="nchw", qkv_bias=False
    ).double()
    x = images(1, 7, 7, 8)
    _, routes = layer(x, return_routes=True)
    qkv = layer.qkv(x).detach()
    starts = [0, 2, 4, 6]
    q_mean, k_mean = (
        torch.stack(
            [
                qkv[0, i : i + 2, j : j + 2, first : first + 8].mean((0, 1))
                for i in starts
                for j in starts
            ]
        )
        for first in (0, 8)
    )
    want = (q_mean @ k_mean.T).sort(descending=True)
    torch.testing.assert_close(routes.score[0], want.values)
    assert torch.equal(routes.index[0].long(), want.indices)
