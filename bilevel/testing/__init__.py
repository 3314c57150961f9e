"""The properties every backend must have, for the authors of backends; needs Hypothesis::

    from hypothesis import given, strategies as st
    from bilevel.testing import PROPERTIES, cases

    @pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
    @given(data=st.data())
    def test_backend(check, data):
        check(BACKEND, data.draw(cases(BACKEND)))

:data:`PULLBACK_PROPERTIES` are for backends that compute gradients, :data:`GRADIENT_PROPERTIES`
for those that work on torch tensors, whose gradients autograd computes.
"""

from bilevel.testing.properties import (
    GRADIENT_PROPERTIES,
    PROPERTIES,
    PULLBACK_PROPERTIES,
    Property,
)
from bilevel.testing.strategies import Case, cases, inputs

__all__ = [
    "GRADIENT_PROPERTIES",
    "PROPERTIES",
    "PULLBACK_PROPERTIES",
    "Case",
    "Property",
    "cases",
    "inputs",
]
