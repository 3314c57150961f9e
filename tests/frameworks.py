"""A missing framework skips its tests, unless ``BILEVEL_REQUIRE_BACKENDS=numpy,torch`` names it."""

from __future__ import annotations

import os
import sys
from ctypes import CDLL
from importlib import metadata
from typing import NoReturn

import pytest
from packaging.version import Version

import bilevel
from bilevel import registry

VARIABLE = "BILEVEL_REQUIRE_BACKENDS"


def load_or_skip(name: str) -> bilevel.Backend:
    """The backend called ``name``; without it the test skips or, if it is required, fails."""
    reasons = {status.name: status.why_not for status in bilevel.backends()}
    why_not = reasons.get(name, "it is not installed")
    if why_not is None:
        try:
            return registry.load(name)
        except bilevel.BackendUnavailable as error:  # its library finds no GPU, say
            why_not = str(error)
    return skip_or_fail(name, why_not)


def skip_or_fail(name: str, why_not: str) -> NoReturn:
    """Skip the test, which cannot run because of ``why_not``; if ``name`` is required, it fails."""
    if name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        pytest.fail(f"{VARIABLE} names {name}, but {why_not}", pytrace=False)
    pytest.skip(f"backend {name}: {why_not}", allow_module_level=True)


def needs(library: str, version: str, why: str) -> pytest.MarkDecorator:
    """The mark of tests that an older version of a library, where it is there, cannot pass."""
    try:
        found = metadata.version(library)
    except metadata.PackageNotFoundError:
        found = version
    return pytest.mark.skipif(
        Version(found) < Version(version), reason=f"{library} {found} is before {version}: {why}"
    )


WHOLE_GRAPHS = needs("torch", "2.12", "it traces no whole graph of the operator")
"""For torch.compile without graph breaks, and for all exports but those of torch.jit.trace."""
FAKE_CUDA = needs("torch", "2.12", "it asks the driver for some operators on fake CUDA tensors")


def has_driver() -> bool:
    """Whether NVIDIA's driver is there, known without the time that importing torch takes."""
    try:
        CDLL("libcuda.so.1" if sys.platform != "win32" else "nvcuda.dll")
    except OSError:
        return False
    return True


def skip_without_gpu() -> None:
    """Skip the module where torch finds no GPU; where ``BILEVEL_REQUIRE_GPU`` is set, it fails."""
    if has_driver() and pytest.importorskip("torch").cuda.is_available():
        return
    if "BILEVEL_REQUIRE_GPU" in os.environ:
        pytest.fail("BILEVEL_REQUIRE_GPU is set, but torch finds no GPU", pytrace=False)
    pytest.skip("torch finds no GPU", allow_module_level=True)
