"""The properties every backend must have, for the authors of backends; needs Hypothesis::

    from hypothesis import given, strategies as st
    from bilevel.testing import PROPERTIES, cases

    @pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
    @given(data=st.data())
    def test_backend(check, data):
        check(BACKEND, data.draw(cases(BACKEND)))

:data:`GRADIENT_PROPERTIES` are for backends that work on torch tensors.
"""

from bilevel.testing.properties import GRADIENT_PROPERTIES, PROPERTIES, Property
from bilevel.testing.strategies import Case, cases, inputs

__all__ = ["GRADIENT_PROPERTIES", "PROPERTIES", "Case", "Property", "cases", "inputs"]
