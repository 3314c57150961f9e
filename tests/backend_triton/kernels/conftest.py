"""Kernels are interpreted where ``TRITON_INTERPRET=1``, and compiled where it is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.backend_triton.kernels.margins import Margins

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.backend_triton.kernels import interpreter  # noqa: F401 # mends it


@pytest.fixture
def margins(monkeypatch: pytest.MonkeyPatch) -> Margins:
    """Watches all memory that kernels write to."""
    from bilevel_triton import memory
    from tests.backend_triton.kernels.margins import Margins

    watched = Margins()
    monkeypatch.setattr(memory, "empty", watched.empty)
    return watched
