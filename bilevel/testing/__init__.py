"""The properties that every backend must have, for authors of backends. Needs Hypothesis.

A test of all of them, in the tests of the distribution that has the backend::

    from bilevel.testing import check_backend
    from bilevel_mine import SPEC

    def test_conformance():
        check_backend(SPEC)

For a test of each property, see :func:`check_property`.
"""

from bilevel.testing.check import check_backend, check_property
from bilevel.testing.properties import (
    EXCHANGE_PROPERTIES,
    GRADIENT_PROPERTIES,
    PROPERTIES,
    PULLBACK_PROPERTIES,
    Property,
    properties_of,
)
from bilevel.testing.strategies import Case, cases, inputs

__all__ = [
    "EXCHANGE_PROPERTIES",
    "GRADIENT_PROPERTIES",
    "PROPERTIES",
    "PULLBACK_PROPERTIES",
    "Case",
    "Property",
    "cases",
    "check_backend",
    "check_property",
    "inputs",
    "properties_of",
]
