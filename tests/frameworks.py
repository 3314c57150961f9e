"""A missing framework skips its tests, unless ``BILEVEL_REQUIRE_BACKENDS=numpy,torch`` names it."""

from __future__ import annotations

import os

import pytest

import bilevel
from bilevel import registry

VARIABLE = "BILEVEL_REQUIRE_BACKENDS"


def load_or_skip(name: str) -> bilevel.Backend:
    """The backend called ``name``; without it the test skips or, if it is required, fails."""
    reasons = {status.name: status.why_not for status in bilevel.backends()}
    why_not = reasons.get(name, "it is not installed")
    if why_not and name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        pytest.fail(f"{VARIABLE} names {name}, but {why_not}", pytrace=False)
    if why_not:
        pytest.skip(f"backend {name}: {why_not}", allow_module_level=True)
    return registry.load(name)
