"""Parity with the official implementation in float64, on torch and on NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bilevel.models import BiFormer, array_layers, biformer, to_official
from bilevel.official_padding import Padding
from tests.golden.numbers import CONFIGS, GRAD_NORMS, TINY, images, micro, parameters

RTOL = 1e-9

Outputs = Callable[[str, tuple[int, ...], Padding, bool], tuple[list[Any], Any]]

CASES: dict[str, tuple[str, tuple[int, ...], Padding, bool]] = {
    # case: (model, shape of the images, padding, training)
    "eval_224": ("micro", (2, 3, 224, 224), "masked", False),
    "pad_200x264": ("micro", (1, 3, 200, 264), "official", False),
    "train_mode_224": ("micro", (4, 3, 224, 224), "masked", True),
    "stl_nchw_224": ("micro_stl_nchw", (2, 3, 224, 224), "masked", False),
}


def close(found: Any, expected: Any, rtol: float = RTOL) -> None:
    """Equal to ``rtol`` of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


@cache
def torch_model(name: str, padding: Padding) -> BiFormer:
    model = BiFormer(replace(CONFIGS[name], padding=padding)).double().eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in parameters(name).items()})
    return model


def torch_outputs(
    name: str, shape: tuple[int, ...], padding: Padding, training: bool
) -> tuple[list[Any], Any]:
    model = torch_model(name, padding)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        x = torch.from_numpy(images(*shape))
        outputs = [s.numpy() for s in biformer.stages(model, x)]
        logits = model.train(training)(x).numpy()
    model.eval().load_state_dict(state)  # training mode moves the running statistics
    return outputs, logits


def numpy_outputs(
    name: str, shape: tuple[int, ...], padding: Padding, training: bool
) -> tuple[list[Any], Any]:
    config = replace(CONFIGS[name], padding=padding)
    model = array_layers.build(np, config, parameters(name), batch_stats=training)
    x = images(*shape)
    return list(biformer.stages(model, x)), model(x)


@pytest.mark.parametrize("outputs", [torch_outputs, numpy_outputs])
@pytest.mark.parametrize("case", CASES)
def test_stages_and_logits_are_the_official_ones(case: str, outputs: Outputs) -> None:
    expected = micro(case)
    stages, logits = outputs(*CASES[case])
    close(logits, expected["logits"])
    if not CASES[case][-1]:
        for i, stage in enumerate(stages, start=1):
            close(stage, expected[f"stage{i}"])


@pytest.mark.parametrize("case", GRAD_NORMS)
def test_loss_and_gradient_norms_are_the_official_ones(case: str) -> None:
    name, shape, padding, _ = CASES[case]
    model = torch_model(name, padding)
    model.zero_grad()
    loss = cross_entropy(model(torch.from_numpy(images(*shape))), torch.tensor([0, 1]))
    loss.backward()
    close(loss.item(), micro(case)["loss"])
    grads: dict[str, Any] = {k: p.grad for k, p in model.named_parameters()}
    grads |= dict(model.named_buffers())
    official = to_official(grads, CONFIGS[name])
    norms = {key: official[key].norm().item() for key in GRAD_NORMS[case]}
    assert norms == pytest.approx(GRAD_NORMS[case], rel=RTOL)
    assert len(norms) == len(list(model.parameters()))


@pytest.mark.parametrize("outputs", [torch_outputs, numpy_outputs])
def test_biformer_tiny_is_the_official_one(outputs: Outputs) -> None:
    stages, logits = outputs("biformer_tiny", (1, 3, 224, 224), "masked", False)
    close(logits[0, :8], np.array(TINY["logits_first8"]))
    close([stage.mean() for stage in stages], np.array(TINY["stage_mean"]))
    close([stage.std() for stage in stages], np.array(TINY["stage_std"]))
