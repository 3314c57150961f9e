"""The rule by which tests of a missing framework skip or fail."""

from __future__ import annotations

import pytest

from tests.frameworks import VARIABLE, load_or_skip


@pytest.mark.parametrize("required", ["", "numpy", "numpy,torch", "numpyx"])
def test_a_missing_framework_skips(required: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.skip.Exception, match="backend jax: it is not installed"):
        load_or_skip("jax")


@pytest.mark.parametrize("required", ["jax", "numpy,jax", "numpy, jax", "jax torch"])
def test_a_missing_framework_that_is_required_fails(
    required: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.fail.Exception, match=f"{VARIABLE} names jax, but it is not inst"):
        load_or_skip("jax")


def test_a_framework_that_is_there_loads() -> None:
    assert load_or_skip("numpy").name == "numpy"
