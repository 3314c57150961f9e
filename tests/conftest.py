"""Fixtures that stand for a framework; :mod:`frameworks` says what a missing one does."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

import bilevel
from frameworks import load_or_skip


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> bilevel.Backend:
    """A backend by name: ``@pytest.mark.parametrize("backend", NAMES, indirect=True)``."""
    return load_or_skip(request.param)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """The module torch."""
    load_or_skip("torch")
    return import_module("torch")
