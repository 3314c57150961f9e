"""The fixture of tests that compile kernels for the CPU."""

from __future__ import annotations

import pytest

from tests.backend_cupy.emulator import gcc
from tests.frameworks import skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def compiler() -> None:
    """g++ is there; without it tests skip or, where CuPy is required, fail."""
    why_not = gcc.missing()
    if why_not is not None:
        skip_or_fail("cupy", why_not)
