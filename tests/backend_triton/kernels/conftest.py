"""Kernels are interpreted where ``TRITON_INTERPRET=1``, and compiled where it is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from margins import Margins

if os.environ.get("TRITON_INTERPRET") == "1":
    import interpreter  # noqa: F401 # mends it


@pytest.fixture
def margins(monkeypatch: pytest.MonkeyPatch) -> Margins:
    """Watches all memory that kernels write to."""
    from margins import Margins

    from bilevel_triton import memory

    watched = Margins()
    monkeypatch.setattr(memory, "empty", watched.empty)
    return watched
