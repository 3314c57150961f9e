"""Every backend has every property, on generated cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import PROPERTIES, PULLBACK_PROPERTIES, Property, cases


@pytest.mark.parametrize(
    "check", [*PROPERTIES, *PULLBACK_PROPERTIES], ids=lambda check: check.__name__
)
@pytest.mark.parametrize("backend", ["numpy", "torch"], indirect=True)
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, data.draw(cases(backend), label="case"))
