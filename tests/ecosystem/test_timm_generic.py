"""What timm's own tests ask of every model, said again for ours; docs/testing.md has the table.

Images are of the smallest size that a model takes. Left out: TorchScript and torch.fx, which cannot
follow checks of shapes; ``torch.export`` can, and does here.
"""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

import bilevel.timm  # noqa: F401 # registers the models
from bilevel.models import BiFormer
from bilevel.models.config import MODELS

SIZE = 32  # the last map is a single token
STAGES = range(4)


@cache
def _built(name: str, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **dict(options))


def create(name: str, **options: Any) -> Any:
    """A model of a test's own, from one that is built once."""
    return copy.deepcopy(_built(name, tuple(options.items()))).eval()


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def images(n: int = 1, channels: int = 3, size: int | tuple[int, int] = SIZE) -> Tensor:
    spatial = (size, size) if isinstance(size, int) else size
    return torch.randn(n, channels, *spatial, generator=torch.Generator().manual_seed(1))


def test_it_is_listed(name: str) -> None:
    assert timm.is_model(name)
    assert name in timm.list_models("biformer*")
    assert name in timm.list_models(module="biformer")
    assert name not in timm.list_pretrained("biformer*")


def test_logits(name: str) -> None:
    model = create(name)
    with torch.inference_mode():
        for size in (SIZE, (64, 40)):
            logits = model(images(size=size))
            assert logits.shape == (1, 1000)
            assert logits.isfinite().all()


def test_every_parameter_has_a_gradient(name: str) -> None:
    model = create(name, num_classes=42).train()
    out = model(images(2))
    assert out.shape == (2, 42)
    assert out.isfinite().all()
    out.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.isnan().any()] == []


def test_what_is_said_of_it_is_so(name: str) -> None:
    """The names of its ends, and the size of its last map at the size that it is meant for."""
    model = create(name)
    cfg, state = model.pretrained_cfg, model.state_dict()
    assert cfg == model.default_cfg
    assert cfg["architecture"] == name
    assert state[f"{cfg['classifier']}.weight"].shape == (cfg["num_classes"], model.num_features)
    assert state[f"{cfg['first_conv']}.weight"].shape[1] == cfg["input_size"][0]
    with torch.inference_mode():
        features = model.forward_features(images(size=cfg["input_size"][-1]))
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    found = get_pretrained_cfg(f"{name}.in1k" if name != "biformer_micro" else name)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.interpolation, found.crop_pct, found.crop_mode) == ("bicubic", 0.875, "center")


def test_parts_of_forward(name: str) -> None:
    model, x = create(name), images(size=64)
    with torch.inference_mode():
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), model(x))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        assert torch.equal(model.get_classifier()(pooled), model(x))


def test_the_classifier_is_reset(name: str) -> None:
    model, x = create(name), images(size=64)
    with torch.inference_mode():
        features = model.forward_features(x)
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert torch.equal(model(x), features.mean((2, 3)))
        model.reset_classifier(0, "")
        assert torch.equal(model(x), features)
        model.reset_classifier(7, "avg")
        assert model(x).shape == (1, 7)
        assert model.num_classes == 7


@pytest.mark.parametrize("pool", ["avg", ""])
def test_without_classes_from_the_start(name: str, pool: str) -> None:
    model = create(name, num_classes=0, global_pool=pool)
    with torch.inference_mode():
        assert model(images()).shape == (1, model.num_features, 1, 1)[: 2 if pool else 4]


@pytest.mark.parametrize("indices", [None, (0, 1, 2, 3), (1, 3), (-2, -1), 2, (0,)])
def test_features_only(name: str, indices: Any) -> None:
    options = {} if indices is None else {"out_indices": indices}
    model = create(name, features_only=True, **options)
    taken = {None: [*STAGES], 2: [2, 3]}.get(indices) or [i % 4 for i in indices]
    info = model.feature_info
    assert info.channels() == [MODELS[name].embed_dims[i] for i in taken]
    assert info.reduction() == [2 ** (i + 2) for i in taken]
    with torch.inference_mode():
        maps = model(images(size=64))
    for x, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert x.shape == (1, channels, 64 // reduction, 64 // reduction)
        assert x.isfinite().all()
    names = {n.split(".")[1] for n, _ in model.named_parameters()}
    assert names == {"downsamples", "stages"}


def test_features_with_all_options_of_a_classifier(name: str) -> None:
    """What a toolkit passes on is no harm where there is no head."""
    model = create(
        name, features_only=True, in_chans=1, num_classes=7, drop_path_rate=0.2, global_pool=""
    )
    with torch.inference_mode():
        assert [x.shape[1] for x in model(images(channels=1))] == [*MODELS[name].embed_dims]


def test_intermediates(name: str) -> None:
    model, x = create(name), images(size=64)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        getter = create(name, features_only=True)
        getter.model.load_state_dict(
            {n: p for n, p in model.state_dict().items() if not n.startswith(("norm.", "head."))}
        )
        features = getter(x)
        assert all(map(torch.equal, maps, features))
        assert len(maps) == len(features) == 4
        only = model.forward_intermediates(x, [0, 2], stop_early=True, intermediates_only=True)
        assert all(map(torch.equal, only, [maps[0], maps[2]]))
        *_, normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
        assert torch.equal(normed, final)


@pytest.mark.parametrize("stage", STAGES)
def test_pruning(name: str, stage: int) -> None:
    model, x = create(name), images()
    with torch.inference_mode():
        (want,) = model.forward_intermediates(x, [stage], intermediates_only=True)
    before = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers([stage], prune_norm=True) == [stage]
    assert sum(p.numel() for p in model.parameters()) < before
    assert len(model.stages) == len(model.downsamples) == stage + 1
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.head, nn.Identity)
    with torch.inference_mode():
        last, (got,) = model.forward_intermediates(x, [stage])
        assert torch.equal(got, want)
        assert torch.equal(model(x), last)


def test_checkpointing_changes_no_gradient(name: str) -> None:
    x = images(2)
    found = []
    for enable in (False, True):
        model = create(name, num_classes=3, drop_path_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        model(x).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_groups_by_depth(name: str) -> None:
    model = create(name, num_classes=3)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        names = [n for group in groups.values() for n in group]
        assert sorted(names) == sorted(n for n, _ in model.named_parameters())
        depths = MODELS[name].depths
        # The stem, blocks or stages, and the head.
        assert len(groups) == 1 + (len(depths) if coarse else sum(depths)) + 1


def test_layer_decay(name: str) -> None:
    model = create(name, num_classes=3)
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.7)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    deep = [model.get_submodule(f"downsamples.{i}") for i in STAGES]
    scales = [scale[id(next(each.parameters()))] for each in deep]
    assert scales == sorted(set(scales))
    assert scale[id(model.head.weight)] == max(scale.values()) == 1
    for group in groups:
        decays = {p.ndim > 1 for p in group["params"]}
        assert decays == {group["weight_decay"] > 0}
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.7, weight_decay=0.05)
    assert len(optimizer.param_groups) == len(groups)


def test_with_token_labels() -> None:
    """What timm does with heads, it does with that of tokens too."""
    name = "biformer_micro"
    model = create(name, num_classes=3, token_labels=True)
    assert model.pretrained_cfg["classifier"] == ("head", "aux_head")
    assert create(name).pretrained_cfg["classifier"] == "head"
    groups = group_parameters(model, model.group_matcher())
    assert {"head.weight", "aux_head.weight"} <= set(max(groups.items())[1])
    with torch.inference_mode():
        x = images(size=64)
        assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
        model.reset_classifier(0)
        assert not any("head" in n for n in model.state_dict())
    assert create(name, features_only=True, token_labels=True)(x)[-1].shape[2:] == (2, 2)


def test_nothing_else_is_kept_from_decay(name: str) -> None:
    assert create(name).no_weight_decay() == set()


def test_rates_are_passed_on(name: str) -> None:
    model = create(name, num_classes=3, drop_rate=0.4, drop_path_rate=0.3)
    assert model.head_drop.p == 0.4
    assert model.stages[-1][-1].drop_path1.rate == 0.3
    assert model.stages[0][0].drop_path1.rate == 0
    torch.manual_seed(0)
    pooled = model.train().forward_head(model.forward_features(images(2)), pre_logits=True)
    assert 0.2 < (pooled == 0).float().mean() < 0.6


def test_on_another_device_or_dtype(name: str) -> None:
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_copies_and_pickles(name: str) -> None:
    model, x = create(name, num_classes=3), images()
    again = pickle.loads(pickle.dumps(model)).eval()
    other = timm.create_model(name, num_classes=3).eval()
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
        assert torch.equal(other(x), model(x))


def test_exported() -> None:
    """In place of torch.fx and TorchScript. Larger models are more of the same blocks."""
    model, x = create("biformer_micro", num_classes=3, exportable=True), images(2, size=64)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_module_of_bilevel(name: str, order: torch.memory_format) -> None:
    model, x = create(name, num_classes=3), images(2, size=64).to(memory_format=order)
    plain = BiFormer(model.config).eval()
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(plain(x), model(x))
