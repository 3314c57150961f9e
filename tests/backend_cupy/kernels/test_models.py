"""Whole models whose attention is that of the CUDA kernels: of arrays, and trained by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilevel import Backend, models
from tests.backend_cupy.kernels.emulated import OF_NUMPY, OF_TORCH
from tests.golden.numbers import CONFIGS, images, parameters


@pytest.mark.parametrize("size", [(56, 56), (72, 40)])
def test_a_model_of_arrays_agrees_with_numpy(size: tuple[int, int]) -> None:
    config, params, x = CONFIGS["micro"], parameters("micro"), images(1, 3, *size)
    got = models.apply(config, params, x, backend=OF_NUMPY)
    want = models.apply(config, params, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


def gradients(backend: Backend | None) -> list[torch.Tensor]:
    """Of all parameters, of a step of training."""
    model = models.BiFormer(CONFIGS["micro"], backend=backend).double()
    model.load_state_dict({k: torch.from_numpy(x) for k, x in parameters("micro").items()})
    model(torch.from_numpy(images(2, 3, 72, 40))).square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_a_model_of_torch_trains() -> None:
    found, wanted = gradients(OF_TORCH), gradients(None)
    largest = max(want.norm() for want in wanted)  # those of biases before a norm are zero
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).norm() <= 1e-12 * largest
