"""What parameters are before training: as in the official code, whose recipe relies on it."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from bilevel.models import PUBLISHED, BiFormer

STD = 0.02


@pytest.fixture(scope="module", params=PUBLISHED)
def model(request: pytest.FixtureRequest) -> BiFormer:
    """A published model with a block in each stage: the others are no different."""
    config = PUBLISHED[request.param]
    torch.manual_seed(0)
    return BiFormer(replace(config, depths=(1,) * len(config.depths)))


def assert_normal(name: str, x: Tensor) -> None:
    """Normally distributed around 0, with the standard deviation of all linear layers."""
    few = 4 / sqrt(x.numel())  # four standard errors
    assert abs(x.mean()) < STD * few, name
    assert x.std() == pytest.approx(STD, rel=few), name
    for sigmas, share in ((1, 0.3173), (2, 0.0455)):
        found = (x.abs() > sigmas * STD).double().mean()
        assert found == pytest.approx(share, abs=0.5 * few), name


def test_linear_layers_are_normally_distributed_and_have_no_bias(model: BiFormer) -> None:
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    # Four in each block, and the head.
    assert len(layers) == 4 * sum(model.config.depths) + 1
    for name, layer in layers.items():
        assert_normal(name, layer.weight.detach())
        assert layer.bias is None or not layer.bias.any(), name


def test_a_new_head_is_as_the_first(model: BiFormer) -> None:
    model.reset_classifier(200)
    assert isinstance(model.head, nn.Linear)
    assert_normal("head", model.head.weight.detach())
    assert not model.head.bias.any()


def test_normalisations_begin_as_such(model: BiFormer) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 2 * sum(model.config.depths)
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert not norm.running_mean.any()
            assert (norm.running_var == 1).all()


def test_convolutions_keep_the_defaults_of_torch(model: BiFormer) -> None:
    """Uniform within one over the root of what is summed, weights and biases."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert layers
    for name, layer in layers.items():
        bound = 1 / sqrt(layer.weight[0].numel())
        few = 4 / sqrt(layer.weight.numel())
        assert layer.weight.abs().max() <= bound, name
        assert layer.weight.std().item() == pytest.approx(bound / sqrt(3), rel=few), name
        assert layer.bias is not None
        assert layer.bias.abs().max() <= bound, name
        assert layer.bias.any(), name
