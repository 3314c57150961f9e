"""What timm's models have, and what takes those takes: features of stages, classifiers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bilevel import ArgumentError, ShapeError
from bilevel.models import BiFormer, BiFormerConfig, biformer

MICRO = BiFormerConfig(
    depths=(1, 1, 2, 1), embed_dims=(8, 16, 32, 64), head_dim=8, regions=3, num_classes=5
)


def build(config: BiFormerConfig = MICRO) -> BiFormer:
    torch.manual_seed(0)
    model = BiFormer(config).double()
    model.norm.running_mean = torch.rand(model.num_features).double()
    return model.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


X = images(2, 3, 96, 64).contiguous(memory_format=torch.channels_last)


def stages(model: BiFormer) -> list[Tensor]:
    return list(biformer.stages(model, X))


def pair(found: list[Tensor] | tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
    assert isinstance(found, tuple)
    return found


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    assert all(map(torch.equal, found, wanted))


def test_stages_are_what_feature_info_says() -> None:
    model = build()
    _, found = pair(model.forward_intermediates(X))
    for x, info in zip(found, model.feature_info, strict=True):
        r = info["reduction"]
        assert isinstance(r, int)
        assert x.shape == (2, info["num_chs"], 96 // r, 64 // r)
        assert model.get_submodule(str(info["module"])) in model.stages
    assert_equal(found, stages(model))


@pytest.mark.parametrize(
    ("indices", "taken"),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), ([1], [1]), ((0, -2), [0, 2]), ([-1, 0], [0, 3])],
)
@pytest.mark.parametrize("stop_early", [False, True])
def test_indices(indices: int | list[int] | None, taken: list[int], stop_early: bool) -> None:
    model = build()
    want = stages(model)
    last, found = pair(model.forward_intermediates(X, indices, stop_early=stop_early))
    assert_equal(found, [want[i] for i in taken])
    reached = taken[-1] if stop_early else 3
    assert torch.equal(last, model.forward_features(X) if reached == 3 else want[reached])
    only = model.forward_intermediates(X, indices, stop_early=stop_early, intermediates_only=True)
    assert isinstance(only, list)
    assert_equal(only, found)


def test_norm_is_of_the_last_stage_alone() -> None:
    model = build()
    want = [*stages(model)[:3], model.forward_features(X)]
    last, found = pair(model.forward_intermediates(X, norm=True))
    assert_equal(found, want)
    assert torch.equal(last, want[-1])
    _, early = pair(model.forward_intermediates(X, [0], norm=True, stop_early=True))
    assert_equal(early, want[:1])


def test_stopping_early_computes_no_more_than_is_taken() -> None:
    model, ran = build(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda *_: ran.append(1))
    model.forward_intermediates(X, [1], stop_early=True)
    assert len(ran) == 2


@pytest.mark.parametrize("indices", [0, 5, [4], [-5], []])
def test_stages_that_are_not_there(indices: int | list[int]) -> None:
    with pytest.raises(ArgumentError, match=r"expected indices of 4 stages: .* got"):
        build().forward_intermediates(X, indices)


def test_other_formats_and_ranks_are_an_error() -> None:
    with pytest.raises(ArgumentError, match="expected output_fmt 'NCHW', got 'NHWC'"):
        build().forward_intermediates(X, output_fmt="NHWC")
    with pytest.raises(ShapeError, match=r"expected images \(N, C, H, W\), got \(3, 96, 64\)"):
        build().forward_intermediates(X[0])


def test_timm_takes_features_of_the_model() -> None:
    from timm.models._features import FeatureGetterNet

    model = build()
    want = [stages(model)[i] for i in (1, 3)]
    getter = FeatureGetterNet(model, out_indices=(1, 3), norm=False)
    assert getter.feature_info.channels() == [16, 64]
    assert getter.feature_info.reduction() == [8, 32]
    assert_equal(getter(X), want)


def test_grad_cam_on_a_stage() -> None:
    """Weights of channels are means over places, which are axes 2 and 3."""
    model, kept = build(), []
    model.stages[-1].register_forward_hook(lambda _, args, out: kept.append(out))
    logit = model(X)[0, 1]
    (grad,) = torch.autograd.grad(logit, kept[0])
    cam = (grad.mean((2, 3), keepdim=True) * kept[0]).sum(1)
    assert cam.shape == (2, 3, 2)
    assert cam[0].abs().sum() > 0
    assert cam[1].abs().sum() == 0


def test_the_classifier() -> None:
    model = build()
    assert model.get_classifier() is model.head
    assert model.head_hidden_size == model.num_features == model.get_classifier().in_features
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(X), model.forward_features(X).mean((2, 3)))
    model.reset_classifier(0, global_pool="")
    assert torch.equal(model(X), model.forward_features(X))
    model.reset_classifier(7, global_pool="avg")
    assert model(X).shape == (2, 7)


@pytest.mark.parametrize(("classes", "pool"), [(5, ""), (0, "max")])
def test_a_classifier_that_cannot_be(classes: int, pool: str) -> None:
    model = build(replace(MICRO, num_classes=3))
    with pytest.raises(ArgumentError, match="expected global_pool 'avg', or '' with num_classes 0"):
        model.reset_classifier(classes, pool)
    assert model(X).shape == (2, 3)
