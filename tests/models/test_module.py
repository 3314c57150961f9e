"""The torch module as others use it, and its agreement with the layers over plain arrays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.testing import assert_close

from bilevel import ArgumentError, ShapeError, WeightsError, models
from bilevel.models import BiFormer, BiFormerConfig, biformer, modules
from bilevel.models.modules import DropPath
from bilevel.official_padding import Padding, Variant
from bilevel.registry import _LOADED, load

MICRO = BiFormerConfig(
    depths=(1, 1, 2, 1), embed_dims=(8, 16, 32, 64), head_dim=8, regions=3, num_classes=5
)
VARIANTS = {
    "biformer": MICRO,
    "stl": replace(MICRO, layout="stl"),
    "stl nchw": replace(MICRO, layout="stl", variant="nchw"),
}


def build(config: BiFormerConfig, seed: int = 0, **options: Any) -> BiFormer:
    """A model in float64 whose norms are not the identity."""
    torch.manual_seed(seed)
    model = BiFormer(config, **options).double()
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.add_(torch.rand_like(value))
    return model.eval()


def images(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


@pytest.mark.parametrize("padding", ["masked", "official"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(96, 96), (76, 132), (40, 33), (32, 32)])
def test_numpy_computes_what_torch_does(
    size: tuple[int, ...], variant: str, padding: Padding
) -> None:
    model = build(replace(VARIANTS[variant], padding=padding))
    x = images(2, 3, *size)
    params = {name: value.numpy() for name, value in model.state_dict().items()}
    found = models.apply(model.config, params, x.numpy(), backend="numpy")
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), rtol=1e-10, atol=1e-12)


def test_masked_and_official_padding_are_the_same_where_regions_divide() -> None:
    x = images(1, 3, 96, 96)
    a, b = (build(replace(MICRO, padding=p)) for p in ("masked", "official"))
    assert torch.equal(a(x), b(x))
    assert not torch.allclose(a(images(1, 3, 96, 104)), b(images(1, 3, 96, 104)))


@pytest.mark.parametrize("size", [(16, 19), (20, 13), (12, 12)])
def test_official_nchw_padding_pools_and_pads_as_pooling_with_ceil_mode_does(
    size: tuple[int, ...],
) -> None:
    """Region means by average pooling that leaves padding out, as the official nchw code."""
    config = replace(MICRO, variant="nchw", padding="official")
    attention = build(config).stages[1][0].attention
    assert (attention.padding, attention.variant) == ("official", "nchw")
    x = images(2, *size, 16)
    region = (size[0] // config.regions, size[1] // config.regions)
    qkv = attention.qkv(x).permute(0, 3, 1, 2)
    q, k, v = qkv.chunk(3, 1)
    q_mean, k_mean = (F.avg_pool2d(y, region, None, 0, True, False).flatten(2) for y in (q, k))
    index = (q_mean.transpose(1, 2) @ k_mean).topk(4).indices
    pad = [m for n, t in zip(size[::-1], region[::-1], strict=True) for m in (0, -n % t)]
    tokens = [F.unfold(F.pad(y, pad), region, stride=region) for y in (q, k, v)]
    # (N, C * T, R) -> (N, R, M, T, D)
    q, k, v = (y.view(2, 2, 8, -1, y.shape[-1]).permute(0, 4, 1, 3, 2) for y in tokens)
    rows = torch.arange(2)[:, None, None]
    k, v = (y[rows, index].transpose(2, 3).flatten(3, 4) for y in (k, v))
    out = ((q @ k.transpose(-1, -2)) * attention.scale).softmax(-1) @ v
    padded = tuple(n + (-n % t) for n, t in zip(size, region, strict=True))
    folded = out.permute(0, 2, 4, 3, 1).flatten(1, 3)
    out = F.fold(folded, padded, region, stride=region)[..., : size[0], : size[1]]
    local = attention.lce(qkv[:, 32:])
    expected = attention.proj((out + local).permute(0, 2, 3, 1))
    assert torch.allclose(attention(x), expected, rtol=1e-10, atol=1e-12)


def test_features_and_head_make_the_logits() -> None:
    model, x = build(MICRO), images(2, 3, 96, 64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 3, 2)
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.allclose(pooled, features.mean((2, 3)))
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.head(pooled), model(x))


def test_reset_classifier_replaces_the_head_alone() -> None:
    model = build(MICRO)
    before = {k: v.clone() for k, v in model.state_dict().items() if "head" not in k}
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model(images(1, 3, 32, 32)).shape == (1, 7)
    model.reset_classifier(0)
    assert model(images(1, 3, 32, 32)).shape == (1, model.num_features)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_activation_checkpointing_changes_memory_not_numbers() -> None:
    x = images(2, 3, 64, 64)
    grads: list[list[Tensor | None]] = []
    saved: list[int] = []
    for enable in (False, True):
        model = build(replace(MICRO, drop_path=0.5)).train()
        model.set_grad_checkpointing(enable)
        kept: list[int] = []
        torch.manual_seed(3)

        def pack(t: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model(x).square().sum()
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
        saved.append(sum(kept))
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)
    assert saved[1] < saved[0] / 2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of a stage's blocks was given."""
    counts: list[int] = []
    whole_stage = biformer.stage

    def stage(blocks: Any, x: Tensor) -> Tensor:
        counts.append(len(x))
        out: Tensor = whole_stage(blocks, x)
        return out

    monkeypatch.setattr(biformer, "stage", stage)
    return counts


def test_stages_in_parts_have_the_same_numbers(
    seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients on a CPU a stage takes some images at a time."""
    model, x = build(MICRO), images(5, 3, 64, 64)
    want = model(x)  # with gradients, whose graph keeps the memory anyway
    assert seen == [5] * 4
    image = 8 * MICRO.embed_dims[0] * (64 // 4) ** 2  # bytes in the first stage; half in the next
    monkeypatch.setattr(modules, "PART", 2.5 * image)
    with torch.no_grad():
        seen.clear()
        assert_close(model(x), want)
        assert seen == [3, 2, 5, 5, 5]
        hook = model.stages[0].register_forward_hook(lambda *_: None)  # sees all in any case
        seen.clear()
        assert_close(model(x), want)
        assert seen == [3, 2, 5, 5, 5]
        hook.remove()
        monkeypatch.setattr(modules, "PART", 1)
        seen.clear()
        assert_close(model(x), want)
        assert seen == [1] * 20


def _forward_of(module: nn.Module) -> None:
    """Replaces it, as tools do that watch or quantize."""
    vars(module)["forward"] = module.forward


LOOK_ON: dict[str, Callable[[nn.Module], Any]] = {
    "a hook": lambda block: block.register_forward_hook(lambda *_: None),
    "a hook before": lambda block: block.register_forward_pre_hook(lambda *_: None),
    "a hook of all": lambda _: of_all_modules.register_module_forward_hook(lambda *_: None),
    "one of all before": lambda _: of_all_modules.register_module_forward_pre_hook(lambda *_: None),
    "a replaced forward": _forward_of,
}


@pytest.mark.parametrize("name", ["stages.0.0", "stages.0.0.norm1", "stages.0.0.mlp.fc1"])
@pytest.mark.parametrize("how", LOOK_ON)
def test_what_looks_on_in_a_stage_sees_all_images(
    how: str, name: str, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = build(MICRO), images(3, 3, 32, 32)
    monkeypatch.setattr(modules, "PART", 1)
    hook = LOOK_ON[how](model.get_submodule(name))
    with torch.no_grad():
        model(x)
        assert seen[0] == 3
        if hook is not None:
            hook.remove()
            seen.clear()
            model(x)
            assert seen == [1] * 12


@pytest.mark.filterwarnings("ignore")  # that traces are deprecated, and that they keep numbers
def test_a_trace_without_gradients_takes_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the number of parts that its example came in."""
    model, x = build(MICRO), images(3, 3, 64, 64)
    monkeypatch.setattr(modules, "PART", 1)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        for batch in (1, 3):
            assert_close(traced(x[:batch]), model(x[:batch]))


def test_drop_path_drops_whole_images_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 2, 1)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (y.amin((1, 2, 3)) == y.amax((1, 2, 3))).all()
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_drop_path_rates_rise_linearly_over_all_blocks() -> None:
    model = models.biformer_tiny(drop_path=0.26)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx(
        [0.02 * i for i in range(14) for _ in range(2)]
    )  # of two branches


def test_a_map_smaller_than_the_regions_lowers_them() -> None:
    """At 32 x 32 the stages are 8, 4, 2 and 1 tokens wide, and topk 16 meets 4 regions."""
    model = build(replace(MICRO, regions=7))
    assert model(images(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("padding", ["masked", "official"])
@pytest.mark.parametrize("variant", ["legacy", "nchw"])
def test_the_backend_is_passed_on_to_every_layer(padding: Padding, variant: Variant) -> None:
    calls: list[Any] = []
    torch_backend = load("torch")
    fused = torch_backend.bra
    assert fused is not None

    def bra(*arguments: Any) -> Any:
        calls.append(arguments)
        return fused(*arguments)

    def other(*_: Any) -> Any:
        raise AssertionError("a layer used another backend")

    counting = replace(torch_backend, bra=bra)
    config = replace(MICRO, padding=padding, variant=variant)
    x = images(1, 3, 40, 40)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cpu", "torch"):
            patch.setitem(_LOADED, name, replace(torch_backend, bra=other, bra_routes=other))
        out = build(config, backend=counting)(x)
    assert len(calls) == sum(config.depths)
    assert torch.equal(out, build(config, backend="torch")(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_numpy_trains_a_torch_model(variant: str) -> None:
    """Attention and its gradients by the other library, all else by torch."""
    config, x = VARIANTS[variant], images(2, 3, 40, 33)
    steps = []
    for backend in (None, "numpy"):
        model = build(config, backend=backend).train()
        model(x).square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.01).step()
        steps.append([(p.grad, p.detach()) for p in model.parameters()])
    for ours, theirs in zip(*steps, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("padding", ["masked", "official"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_computes_the_attention_of_a_numpy_model(variant: str, padding: Padding) -> None:
    config = replace(VARIANTS[variant], padding=padding)
    params = {name: value.numpy() for name, value in build(config).state_dict().items()}
    x = images(2, 3, 40, 33).numpy()
    out = models.apply(config, params, x, backend="torch")
    assert isinstance(out, np.ndarray)
    np.testing.assert_allclose(out, models.apply(config, params, x), rtol=1e-10, atol=1e-12)


def test_the_module_is_a_good_citizen_of_torch() -> None:
    """Copies, saves, changes precision, and takes gradients per image."""
    model, x = build(MICRO), images(2, 3, 32, 32)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    assert torch.equal(model(x.contiguous(memory_format=torch.channels_last)), expected)
    params = dict(model.named_parameters())

    def loss(params: dict[str, Tensor], image: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(model, params, (image[None],))
        return out.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)["head.weight"]
    one = torch.func.grad(loss)(params, x[1])["head.weight"]
    assert torch.allclose(each[1], one)
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_an_empty_batch_gives_no_logits() -> None:
    assert build(MICRO)(images(0, 3, 32, 32)).shape == (0, 5)


def test_images_of_another_rank_are_an_error() -> None:
    with pytest.raises(ShapeError, match=r"expected images \(N, C, H, W\), got \(3, 32, 32\)"):
        build(MICRO)(images(3, 32, 32))


def test_apply_says_what_is_wrong_with_parameters_and_images() -> None:
    model = build(MICRO)
    params = {name: value.numpy() for name, value in model.state_dict().items()}
    x = images(1, 3, 32, 32).numpy()
    with pytest.raises(ShapeError, match=r"expected images \(N, 3, H, W\), got \(1, 4, 32, 32\)"):
        models.apply(MICRO, params, images(1, 4, 32, 32).numpy())
    with pytest.raises(TypeError, match=r"of numpy or cupy, got torch; for torch use .*Bi"):
        models.apply(MICRO, params, images(1, 3, 32, 32))
    bias = params.pop("head.bias")
    with pytest.raises(WeightsError, match=r"missing head\.bias \(5,\); left over head\.bios"):
        models.apply(MICRO, params | {"head.bios": bias}, x)
    with pytest.raises(WeightsError, match=r"head\.bias is \(4,\), expected \(5,\)"):
        models.apply(MICRO, params | {"head.bias": bias[:4]}, x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 1)}, "one entry per stage"),
        ({"embed_dims": (8, 16, 32, 60)}, "multiples of 8, got 60"),
        ({"head_dim": 7}, "multiples of 7, got 8"),
        ({"topk": (1, 0, 4, None)}, r"expected topk\[1\] to be an integer of at least 1, got 0"),
        ({"padding": "oficial"}, "expected padding to be one of .*got 'oficial'"),
        ({"layout": "swin"}, "expected layout to be one of"),
        ({"regions": (4, 2)}, r"expected regions to be an integer of at least 1, got \(4, 2\)"),
        ({"num_classes": -1}, "expected num_classes to be an integer of at least 0"),
        ({"drop_path": 1.5}, "expected drop_path to be a number from 0 to 1, got 1.5"),
        ({"drop_path": 1}, "expected drop_path below 1, got 1"),
    ],
)
def test_a_config_that_cannot_be_built_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(MICRO, **fields)
