"""Kernels are CUDA C++: g++ compiles them for the CPU, and NVRTC for GPUs."""

from __future__ import annotations

import gcc
import pytest

from frameworks import skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def compiler() -> None:
    """What compiles them for the CPU must be there."""
    why_not = gcc.missing()
    if why_not is not None:
        skip_or_fail("cupy", why_not)
