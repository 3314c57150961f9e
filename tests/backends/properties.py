"""The properties of our backends, known before any library is imported."""

from __future__ import annotations

from bilevel.testing import (
    EXCHANGE_PROPERTIES,
    GRADIENT_PROPERTIES,
    PROPERTIES,
    PULLBACK_PROPERTIES,
)

OF_NUMPY = (*PROPERTIES, *PULLBACK_PROPERTIES, *EXCHANGE_PROPERTIES)
OF_TORCH = (*OF_NUMPY, *GRADIENT_PROPERTIES)
"""All properties."""
