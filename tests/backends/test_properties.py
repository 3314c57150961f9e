"""Every backend has every property that applies to it, on generated cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import Property, cases, properties_of
from tests.backends.properties import OF_NUMPY, OF_TORCH

APPLICABLE = {"cpu": OF_TORCH, "cpu-numpy": OF_NUMPY, "numpy": OF_NUMPY, "torch": OF_TORCH}
CHECKS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name, checks in APPLICABLE.items()
    for check in checks
]


@pytest.mark.parametrize(("backend", "check"), CHECKS, indirect=["backend"])
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, data.draw(cases(backend), label="case"))


@pytest.mark.parametrize("backend", APPLICABLE, indirect=True)
def test_these_are_all_that_apply(backend: Backend) -> None:
    assert set(properties_of(backend)) == set(APPLICABLE[backend.name])
