"""The mixers against what the official code of each paper computed: outputs, steps, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last
from bilevel.compare.quadtree import QuadTreeAttention
from bilevel.compare.wavelet import haar, inverse_haar
from tests.compare.builders import AS_THEY_COME, BUILDERS
from tests.golden.compare.cases import Case, arrays, cases
from tests.golden.numbers import parameter

CASES = {case.name: case for case in cases()}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def with_array(name: str) -> pytest.MarkDecorator:
    """Cases that have an array whose name begins so."""
    found = [c.name for c in CASES.values() if any(each.startswith(name) for each in c.measured)]
    return pytest.mark.parametrize("name", found)


def normal(seed: int, shape: Any) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)))


def layer_of(case: Case) -> nn.Module:
    """Our layer in evaluation mode, with the case's parameters; it has these and no others."""
    layer = BUILDERS[case.kind](case).double().eval()
    ours = layer.state_dict()
    fixed = (*case.facts.get("not_by_rule", ()), "dwt.", "idwt.")
    given = {}
    for key, shape in case.facts["keys"]:
        if not any(part in key for part in fixed):
            name = key if key in ours else key.removeprefix("attn.")
            given[name] = torch.from_numpy(parameter(key, shape)).reshape(ours[name].shape)
    layer.load_state_dict(given)
    return layer


def called(case: Case, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The output for an input in the case's form, in that form."""
    if case.kind in AS_THEY_COME:
        return layer(x)
    if x.ndim == 4:
        return channels_first(layer(channels_last(x)))
    return layer(x.unflatten(1, case.size)).flatten(1, 2)


def assert_agrees(found: Tensor, case: Case, name: str) -> None:
    """With an array of the case, whole or sampled, or else with its mean and deviation."""
    value = found.detach().numpy()
    golden = case.arrays
    if name in golden:
        np.testing.assert_allclose(value, golden[name], rtol=1e-10, atol=1e-10)
        return
    if f"{name}_positions" in golden:
        sample = value.ravel()[golden[f"{name}_positions"]]
        np.testing.assert_allclose(sample, golden[f"{name}_values"], rtol=1e-10, atol=1e-10)
        mean, deviation = golden[f"{name}_mean_std"]
    else:
        mean, deviation = case.facts[f"{name}_mean"], case.facts[f"{name}_std"]
    assert value.mean() == pytest.approx(mean, rel=1e-10, abs=1e-10)
    assert value.std() == pytest.approx(deviation, rel=1e-10, abs=1e-10)


@EVERY_CASE
def test_golden_output_and_gradients(name: str) -> None:
    case = CASES[name]
    layer, x = layer_of(case), normal(0, case.facts["input"]).requires_grad_()
    out = called(case, layer, x)
    assert_agrees(out, case, "out")
    torch.autograd.backward((out * normal(1, out.shape)).sum())
    norms = {key: p.grad.norm().item() for key, p in layer.named_parameters()}
    norms["<input>"] = x.grad.norm().item()
    expected = {
        key if key in norms else key.removeprefix("attn."): norm
        for key, norm in case.facts["grad"].items()
    }
    assert norms == pytest.approx(expected, rel=1e-10, abs=1e-10)


@with_array("out_train_mode")
def test_golden_output_in_training(name: str) -> None:
    case = CASES[name]
    layer = layer_of(case).train()
    with torch.no_grad():
        assert_agrees(called(case, layer, normal(0, case.facts["input"])), case, "out_train_mode")


@with_array("reduce")
def test_golden_steps_of_wavelet_attention(name: str) -> None:
    case = CASES[name]
    layer: Any = layer_of(case)
    steps: dict[str, Tensor] = {}
    for step in ("reduce", "filter"):
        part = getattr(layer, step)
        part.register_forward_hook(lambda _, __, out, step=step: steps.update({step: out}))
    with torch.no_grad():
        called(case, layer, normal(0, case.facts["input"]))
    steps |= {"dwt": haar(steps["reduce"]), "idwt": inverse_haar(steps["filter"])}
    for step, found in steps.items():
        assert_agrees(found, case, step)


@pytest.mark.parametrize("name", [k for k in arrays() if k.startswith("dwt/")])
def test_golden_wavelet_transform(name: str) -> None:
    expected = torch.from_numpy(arrays()[name])
    n, c, h, w = expected.shape
    x = normal(0, (n, c // 4, 2 * h, 2 * w))
    torch.testing.assert_close(haar(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_haar(expected), x, rtol=1e-10, atol=1e-10)


@with_array("pos")
def test_golden_points_of_deformable_attention(name: str) -> None:
    case = CASES[name]
    layer: Any = layer_of(case)
    with torch.no_grad():
        points = layer.points(layer.proj_q(normal(0, case.facts["input"])))
    points = points.unflatten(0, (case.facts["input"][0], -1))
    assert_agrees(points, case, "pos")
    assert_agrees(layer.reference().expand(points.shape), case, "reference")


@with_array("level")
def test_golden_levels_of_quadtree_attention(name: str) -> None:
    case = CASES[name]
    layer = layer_of(case)
    assert isinstance(layer, QuadTreeAttention)
    x = normal(0, case.facts["input"]).transpose(1, 2).unflatten(2, case.size)
    with torch.no_grad():
        maps = layer.pyramids(x)
        for i, (message, best) in enumerate(layer.looks(maps)):
            level = f"level{i}_coarse_to_fine"
            message = message.transpose(1, 2)  # (N, T, M, D)
            if i:  # theirs are by parent and child
                quads = message.unflatten(1, maps[i][0].shape[2:])
                quads = quads.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)
                message = quads.flatten(3, 4).flatten(1, 2)
            assert_agrees(message, case, f"{level}/message")
            if best is not None:
                assert_agrees(best.score.permute(0, 2, 3, 1), case, f"{level}/topk_score")
                assert_agrees(best.token.permute(0, 2, 3, 1), case, f"{level}/topk_index")


def test_golden_cases_are_found() -> None:
    assert {case.kind for case in CASES.values()} >= {*BUILDERS} - {"block_typeA"}
