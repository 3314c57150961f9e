"""The backbone for dense prediction: its maps, its training, and whose checkpoints it takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilevel import ArgumentError, InputError, WeightsError, models
from bilevel.models import Backbone, BackboneConfig, BiFormer, BiFormerConfig, biformer

MICRO = BiFormerConfig(
    depths=(1, 1, 2, 1), embed_dims=(8, 16, 32, 64), head_dim=8, regions=3, num_classes=5
)


def build(*args: Any, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(MICRO, *args, **options).double().eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def official(config: BiFormerConfig, **more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ours = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in models.parameter_shapes(config).items()
    }
    return models.to_official(ours, config) | more


CLASSIFIER, DENSE = official(MICRO), official(BackboneConfig.of(MICRO))


def test_maps_are_the_normalised_outputs_of_stages_that_go_on_as_they_are() -> None:
    backbone, x = build(), images(2, 3, 100, 76)
    for norm in backbone.norms:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    whole = BiFormer(replace(MICRO, num_classes=0)).double().eval()
    whole.load_state_dict(backbone.state_dict(), strict=False)
    outputs = biformer.stages(whole, x)
    for i, (found, stage) in enumerate(zip(backbone(x), outputs, strict=True)):
        wanted = backbone.norms[i](stage.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        size = [-(-n // backbone.strides[i]) for n in (100, 76)]
        assert found.shape == (2, backbone.out_channels[i], *size)


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 2, 3), (0, 2), [1]])
def test_stages_that_are_taken(indices: Any) -> None:
    backbone, whole, x = build(indices), build(), images(1, 3, 64, 96)
    missing, _ = backbone.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert len(backbone.stages) == max(indices) + 1
    assert all(torch.equal(a, whole(x)[i]) for a, i in zip(backbone(x), indices, strict=True))
    assert backbone.out_channels == [MICRO.embed_dims[i] for i in indices]
    assert backbone.strides == [4 * 2**i for i in indices]
    again = Backbone(BackboneConfig.from_dict(backbone.config.to_dict()))
    assert again.state_dict().keys() == backbone.state_dict().keys()
    sum(y.square().mean() for y in backbone.train()(x)).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_norm_eval_keeps_the_statistics_and_trains_the_weights() -> None:
    backbone = build(norm_eval=True)
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    before = {k: v.clone() for k, v in backbone.named_buffers()}
    assert backbone.train() is backbone
    assert backbone.stages[0][0].training
    sum(y.square().mean() for y in backbone(images(2, 3, 64, 64))).backward()
    assert all(torch.equal(v, before[k]) for k, v in backbone.named_buffers())
    assert backbone.downsamples[0].norm1.weight.grad is not None
    assert all(not m.training for m in backbone.eval().modules())
    plain = build().train()
    plain(images(2, 3, 64, 64))
    assert not torch.equal(plain.downsamples[0].norm1.running_mean, torch.zeros(4).double())


def test_checkpointing_computes_the_same() -> None:
    backbone, x = build().train(), images(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        sum(y.square().mean() for y in backbone(x)).backward()
        grads.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_numpy_gives_the_same_maps() -> None:
    for indices in ((0, 1, 2, 3), (0, 2)):
        backbone, x = build(indices), images(2, 3, 60, 84)
        params = {k: v.numpy() for k, v in backbone.state_dict().items()}
        found = models.apply(backbone.config, params, x.numpy())
        for a, b in zip(found, backbone(x), strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("indices", [(), (0, 4), (-1,), (1, 0), (0, 0), (0, True), 2, "01"])
def test_what_are_no_stages(indices: Any) -> None:
    with pytest.raises(ArgumentError, match="expected out_indices"):
        BackboneConfig(out_indices=indices)


def test_configs() -> None:
    with pytest.raises(ArgumentError, match="expected a backbone without classes, got 5"):
        BackboneConfig(num_classes=5)
    with pytest.raises(InputError, match="the fields of a BackboneConfig, got missing out_ind"):
        BackboneConfig.from_dict(MICRO.to_dict())
    with pytest.raises(InputError, match="the fields of a BiFormerConfig, got unknown out_ind"):
        BiFormerConfig.from_dict(BackboneConfig.of(MICRO).to_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d,
        lambda d: {"state_dict": {f"backbone.{k}": v for k, v in d.items()}},
        lambda d: {f"module.{k}": v for k, v in d.items()},
        lambda d: {"model": {f"module.backbone.{k}": v for k, v in d.items()}, "epoch": 3},
    ],
)
def test_dense_checkpoints_load_without_a_word(wrap: Callable[[Any], Any]) -> None:
    backbone = Backbone(MICRO)
    backbone.load_state_dict(models.from_official(wrap(DENSE), backbone.config))
    back = models.to_official(backbone.state_dict(), backbone.config)
    assert back.keys() == DENSE.keys()
    assert all(torch.equal(back[k], v) for k, v in DENSE.items())


def test_what_lies_beside_a_dense_checkpoint_is_told_once() -> None:
    content = {f"backbone.{k}": v for k, v in DENSE.items()}
    content["decode_head.conv_seg.weight"] = torch.ones(2, 2)
    with pytest.warns(UserWarning, match=r"^left out decode_head\.conv_seg\.weight, wh") as caught:
        found = models.from_official(content, BackboneConfig.of(MICRO))
    assert len(caught) == 1
    assert "norms.3.weight" in found


def test_a_classifier_loads_with_one_message_of_what_is_new() -> None:
    backbone = Backbone(MICRO)
    said = r"no extra_norms\.0\.weight.* and 3 more, which stay new; left out norm\.weight"
    with pytest.warns(UserWarning, match=said) as caught:
        params = models.from_official({"model": CLASSIFIER}, backbone.config)
    assert len(caught) == 1
    missing, unexpected = backbone.load_state_dict(params, strict=False)
    assert sorted(missing) == sorted(f"norms.{i}.{n}" for i in range(4) for n in ("weight", "bias"))
    assert not unexpected


def test_stages_that_the_backbone_has_not_are_left_out() -> None:
    backbone = Backbone(MICRO, (0, 1))
    with pytest.warns(UserWarning, match=r"left out downsample_layers\.2\.0\.weight.* and"):
        backbone.load_state_dict(models.from_official(DENSE, backbone.config))


def test_a_dense_checkpoint_is_recognised_without_a_config() -> None:
    config = replace(models.PUBLISHED["biformer_tiny"], in_chans=1)
    params = models.from_official(official(BackboneConfig.of(config)))
    assert {k: tuple(v.shape) for k, v in params.items()} == models.parameter_shapes(
        BackboneConfig.of(config)
    )
    assert "extra_norms.2.bias" in models.to_official(params)


def test_a_classifier_takes_the_body_of_a_dense_checkpoint() -> None:
    with pytest.warns(UserWarning, match=r"no head\.weight.*left out extra_norms\.0\.weight"):
        params = models.from_official(DENSE, MICRO)
    model = BiFormer(MICRO)
    missing, unexpected = model.load_state_dict(params, strict=False)
    assert {name.split(".")[0] for name in missing} == {"norm", "head"}
    assert not unexpected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("extra_norms.1.bias"), r"missing extra_norms\.1\.bias \(16,\)"),
        (lambda d: d.pop("stages.2.1.norm1.bias"), r"missing stages\.2\.1\.norm1\.bias"),
        (
            lambda d: d.update({"extra_norms.0.weight": torch.ones(9)}),
            r"is \(9,\), expected \(8,\)",
        ),
        (lambda d: d.update({"stages.0.9.x": torch.ones(9)}), r"left over stages\.0\.9\.x"),
    ],
)
def test_what_does_not_fit_is_an_error(change: Callable[[Any], Any], message: str) -> None:
    given = dict(DENSE)
    change(given)
    with warnings.catch_warnings(), pytest.raises(WeightsError, match=message):
        models.from_official(given, BackboneConfig.of(MICRO))
