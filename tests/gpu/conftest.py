"""Tests of what only a GPU can show; `nox -s gpu` runs them, and fails where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if not here or _gpu():
        return
    if "BILEVEL_REQUIRE_GPU" in os.environ:
        pytest.exit("BILEVEL_REQUIRE_GPU is set, but torch finds no GPU", returncode=1)
    for item in here:
        item.add_marker(pytest.mark.skip(reason="torch finds no GPU"))


def _gpu() -> bool:
    import torch  # the tests are only collected where it is

    return torch.cuda.is_available()
