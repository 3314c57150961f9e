"""Models that learn token labels (BiFormer-S* and -B*): a head of tokens, and MixToken."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilevel import ArgumentError, ShapeError, models
from bilevel.export import export
from bilevel.models import BiFormer, BiFormerConfig, biformer, conversion
from bilevel.models.config import MODELS, BackboneConfig

STAR = replace(MODELS["biformer_micro"], num_classes=5, regions=2, token_labels=True)
AUX_HEAD = {"aux_head.weight", "aux_head.bias"}
SOME = torch.tensor([[True, False], [True, False], [False, False]])
"""Places of the last map of images of 96 x 64 pixels."""


def build(config: BiFormerConfig = STAR) -> BiFormer:
    torch.manual_seed(0)
    model = BiFormer(config).double().eval()
    assert isinstance(model.aux_head, torch.nn.Linear)
    torch.nn.init.normal_(model.aux_head.bias)
    return model


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 96, 64, generator=torch.Generator().manual_seed(1)).double()


# The paper has 26 M and 58 M.
@pytest.mark.parametrize(
    ("name", "parameters"), [("biformer_small", 26_049_232), ("biformer_base", 57_573_968)]
)
def test_parameters_are_counted_exactly(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = getattr(models, name)(token_labels=True)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config == replace(models.PUBLISHED[name], token_labels=True)


@pytest.mark.parametrize("layout", ["biformer", "stl"])
@pytest.mark.parametrize("size", [(96, 64), (76, 45)])
def test_numpy_computes_what_torch_does(size: tuple[int, int], layout: Any) -> None:
    model = build(replace(STAR, layout=layout))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).double()
    params = {name: value.numpy() for name, value in model.state_dict().items()}
    found = models.apply(model.config, params, x.numpy(), backend="numpy")
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_logits_are_those_of_the_image_and_half_the_largest_of_its_tokens() -> None:
    model, x = build(), images()
    plain = BiFormer(replace(STAR, token_labels=False)).double().eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k not in AUX_HEAD})
    tokens = model.aux_head(model.forward_features(x).flatten(2).transpose(1, 2))
    torch.testing.assert_close(model(x), plain(x) + 0.5 * tokens.max(1).values)
    torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x)))
    found = model(x, torch.zeros(3, 2, dtype=torch.bool))
    torch.testing.assert_close(found.pooled, plain(x))
    torch.testing.assert_close(found.dense, tokens.unflatten(1, (3, 2)))


@pytest.mark.parametrize("n", [1, 4, 5])
@torch.no_grad()
def test_the_places_are_exchanged_after_the_stem_and_back_at_the_end(n: int) -> None:
    model, x = build(), images(n)
    found = model(x, SOME)

    def mix(module: torch.nn.Module, inputs: Any, stem: Tensor) -> Tensor:
        mixed = stem.clone()
        mixed[:, :, :16, :8] = stem.flip(0)[:, :, :16, :8]
        return mixed

    with model.downsamples[0].register_forward_hook(mix):
        features = model.forward_features(x)
    torch.testing.assert_close(found.pooled, model.head(biformer.pool(features)))
    dense = model.aux_head(features.permute(0, 2, 3, 1))
    expected = dense.clone()
    expected[:, :2, :1] = dense.flip(0)[:, :2, :1]
    torch.testing.assert_close(found.dense, expected)


@torch.no_grad()
def test_where_all_is_exchanged_each_token_still_belongs_to_its_image() -> None:
    model, x = build(), images(4)
    none = torch.zeros(3, 2, dtype=torch.bool)
    alone, mixed = model(x, none), model(x, ~none)
    torch.testing.assert_close(mixed.dense, alone.dense)
    torch.testing.assert_close(mixed.pooled, alone.pooled.flip(0))


def test_every_parameter_learns_and_plain_training_has_logits() -> None:
    model = build().train()
    found = model(images(4), SOME)
    (found.pooled.square().sum() + found.dense.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert model(images(4)).shape == (4, 5)


def test_heads_are_made_new_and_removed_together() -> None:
    model = build()
    model.reset_classifier(7)
    assert model(images()).shape == (3, 7)
    assert model(images(), SOME).dense.shape == (3, 3, 2, 7)
    model.reset_classifier(0)
    assert model.aux_head is None
    assert model(images()).shape == (3, 256)
    with pytest.raises(ArgumentError, match="expected a model with token_labels=True and classes"):
        model(images(), SOME)
    model.reset_classifier(2)
    assert model(images(), SOME).pooled.shape == (3, 2)


def test_places_of_another_map_are_one_clear_error() -> None:
    with pytest.raises(ShapeError, match=r"size of the last map, \(3, 2\), got \(2, 3\)"):
        build()(images(), SOME.T)


@pytest.mark.parametrize("layout", ["biformer", "stl"])
@pytest.mark.parametrize("stages", [1, 4])
@torch.no_grad()
def test_the_size_of_the_last_map_is_known(stages: int, layout: Any) -> None:
    config = BiFormerConfig(
        (1,) * stages, (8,) * stages, topk=(1,) * stages, head_dim=8, layout=layout
    )
    model = BiFormer(config).eval()
    for size in ((32, 33), (47, 64), (63, 95)):
        found = model.forward_features(torch.zeros(1, 3, *size)).shape[2:]
        assert config.last_map(*size) == tuple(found)


def test_a_config_that_was_saved_before_means_what_it_meant() -> None:
    saved = STAR.to_dict()
    assert BiFormerConfig.from_dict(saved) == STAR
    del saved["token_labels"]
    assert BiFormerConfig.from_dict(saved) == replace(STAR, token_labels=False)


def test_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(ArgumentError, match="expected token_labels to be one of False, True, got"):
        replace(STAR, token_labels="yes")  # type: ignore[arg-type]


PARAMS = dict(build().state_dict())
PLAIN = {name: value for name, value in PARAMS.items() if name not in AUX_HEAD}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) for name, value in expected.items()
    )


def test_official_names_there_and_back_again() -> None:
    official = models.to_official(PARAMS, STAR)
    assert official.keys() >= AUX_HEAD
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for config in (STAR, None):
            assert same(models.from_official({"model": official}, config), PARAMS)
    assert models.to_official(PARAMS).keys() == official.keys()


def test_the_head_of_tokens_is_left_out_or_stays_new_with_a_warning() -> None:
    """From a model with it to one without, and the other way round."""
    plain = replace(STAR, token_labels=False)
    with pytest.warns(UserWarning, match=r"^left out aux_head\.weight, aux_head\.bias$"):
        assert same(models.from_official(models.to_official(PARAMS, STAR), plain), PLAIN)
    with pytest.warns(UserWarning, match=r"^the checkpoint has no aux_head\.weight, aux_head\.b"):
        assert same(models.from_official(models.to_official(PLAIN, plain), STAR), PLAIN)


def test_heads_of_other_classes_are_left_out_together() -> None:
    config = replace(STAR, num_classes=9)
    with pytest.warns(UserWarning, match=r"and aux_head\.bias: the checkpoint has 5 classes, the"):
        found = models.from_official(models.to_official(PARAMS, STAR), config)
    model = BiFormer(config)
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert missing == ["head.weight", "head.bias", "aux_head.weight", "aux_head.bias"]
    assert not unexpected


@pytest.mark.parametrize("style", ["official", "bilevel"])
def test_files_by_all_names_hold_the_whole_model(style: Any, tmp_path: Path) -> None:
    path, whole = tmp_path / "model.safetensors", conversion.Checkpoint(STAR, PARAMS, {}, [])
    conversion.write(whole, path, style)
    found = conversion.read(path)
    assert found.config.token_labels
    assert same(found.params, PARAMS)
    assert not found.left_out


def test_detectors_get_no_head(tmp_path: Path) -> None:
    conversion.write(conversion.Checkpoint(STAR, PARAMS, {}, []), tmp_path / "mm.pth", "mm")
    keys = torch.load(tmp_path / "mm.pth")["state_dict"]
    assert not any("head" in key for key in keys)
    backbone, official = BackboneConfig.of(STAR), models.to_official(PARAMS, STAR)
    with pytest.warns(UserWarning, match="which stay new"):
        found = models.from_official(official, backbone)
    missing, unexpected = models.Backbone(STAR).load_state_dict(found, strict=False)
    assert all(name.startswith("norms.") for name in missing)
    assert not unexpected


def test_export(tmp_path: Path) -> None:
    model = build(replace(STAR, depths=(1, 1), embed_dims=(8, 16), topk=(2, None), head_dim=8))
    checked = export(model.float(), tmp_path / "model.onnx", "onnx")
    assert checked.difference < 1e-5
