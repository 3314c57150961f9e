"""The properties every backend must have, for the authors of backends; needs Hypothesis.

The tests of a distribution that has one::

    from bilevel.testing import check_backend
    from bilevel_mine import SPEC

    def test_conformance():
        check_backend(SPEC)

Where each property is to be a test of its own, see :func:`check_property`.
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
