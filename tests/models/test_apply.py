"""A BiFormer without torch: the same layers on NumPy and on the array API standard alone."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import array_api_strict
import numpy as np
import pytest

from bilevel import ArrayError, Backend, ShapeError, models
from bilevel.models import array_layers
from bilevel.models.tree import tree
from bilevel.official_padding import Padding
from tests.golden.numbers import CONFIGS, images, parameters


@pytest.mark.parametrize(
    ("name", "size", "padding", "batch_stats"),
    [
        ("micro", (112, 112), "masked", False),
        ("micro", (120, 72), "masked", True),
        ("micro", (120, 72), "official", False),
        ("micro_stl_nchw", (96, 144), "masked", False),
        ("micro_stl_nchw", (96, 144), "official", False),
    ],
)
def test_the_standard_is_all_that_it_takes(
    strict: Backend, name: str, size: tuple[int, int], padding: Padding, batch_stats: bool
) -> None:
    """Attention by the CuPy backend's primitives there, by NumPy's here."""
    config, params = replace(CONFIGS[name], padding=padding), parameters(name)
    x = images(2, 3, *size)
    want = models.apply(config, params, x, batch_stats=batch_stats)
    there = {key: array_api_strict.asarray(value) for key, value in params.items()}
    model = array_layers.build(array_api_strict, config, there, strict, batch_stats)
    got = model(array_api_strict.asarray(x))
    assert isinstance(got, array_api_strict._array_object.Array)
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_parameters_are_of_the_library_of_the_images(torch: ModuleType) -> None:
    config, params = CONFIGS["micro"], parameters("micro")
    mixed: dict[str, Any] = {**params, "head.bias": torch.from_numpy(params["head.bias"])}
    message = "expected head.bias to be a numpy array, as the parameters before it are, got torch;"
    with pytest.raises(ArrayError, match=message):
        models.apply(config, mixed, images(1, 3, 32, 32))


def test_a_bound_model_is_called_many_times() -> None:
    config, params = CONFIGS["micro"], parameters("micro")
    model = models.bind(config, params)
    for size in ((64, 64), (40, 72)):
        x = images(1, 3, *size)
        np.testing.assert_array_equal(model(x), models.apply(config, params, x))
    batch = models.bind(config, params, batch_stats=True)
    x = images(2, 3, 64, 64)
    np.testing.assert_array_equal(batch(x), models.apply(config, params, x, batch_stats=True))
    assert not np.allclose(batch(x), model(x))


def test_the_layers_of_a_bound_model_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def counted(config: models.BiFormerConfig) -> Any:
        made.append(config)
        return tree(config)

    monkeypatch.setattr(array_layers, "tree", counted)
    config = CONFIGS["micro"]
    model = models.bind(config, parameters("micro"))
    for batch in (1, 2):
        model(images(batch, 3, 40, 40))
    assert made == [config]


def test_images_are_of_the_library_of_the_parameters(torch: ModuleType) -> None:
    config, params = CONFIGS["micro"], parameters("micro")
    model = models.bind(config, params)
    message = "expected images to be a numpy array, as the parameters are, got torch; convert"
    with pytest.raises(ArrayError, match=message):
        model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ShapeError, match=r"expected images \(N, 3, H, W\), got \(1, 1, 32, 32\)"):
        model(np.zeros((1, 1, 32, 32)))
    tensors = {key: torch.from_numpy(value) for key, value in params.items()}
    with pytest.raises(ArrayError, match="expected parameters of numpy or cupy, got torch; for"):
        models.bind(config, tensors)
