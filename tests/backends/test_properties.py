"""Every backend has every property that applies to it, on generated cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel import Backend, BackendUnavailable, registry
from bilevel.testing import PROPERTIES, Property, cases, properties_of


def applicable(name: str) -> tuple[Property, ...]:
    """The properties of a backend; of one that is missing, a test is to say so."""
    try:
        return properties_of(registry.load(name))
    except BackendUnavailable:
        return PROPERTIES


CHECKS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name in ("numpy", "torch")
    for check in applicable(name)
]


@pytest.mark.parametrize(("backend", "check"), CHECKS, indirect=["backend"])
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, data.draw(cases(backend), label="case"))
