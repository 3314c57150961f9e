"""Bi-Level Routing Attention (BiFormer, CVPR 2023) for every array library.

Importing bilevel imports no array library; a backend imports its own when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from bilevel.cost import Cost, Plan, cost, plan
from bilevel.errors import (
    ArgumentError,
    ArrayError,
    BackendRefused,
    BackendUnavailable,
    BilevelError,
    InputError,
    ShapeError,
    WeightsError,
)
from bilevel.grid import Grid
from bilevel.ops import attend, bra, bra_vjp, gather, key_mask, merge, partition, route, summarize
from bilevel.protocol import Attended, Backend, BackendSpec, Problem, Routed, Routes
from bilevel.registry import BackendStatus, backends

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArrayError",
    "Attended",
    "Backend",
    "BackendRefused",
    "BackendSpec",
    "BackendStatus",
    "BackendUnavailable",
    "BilevelError",
    "Cost",
    "Grid",
    "InputError",
    "Plan",
    "Problem",
    "Routed",
    "Routes",
    "ShapeError",
    "WeightsError",
    "attend",
    "backends",
    "bra",
    "bra_vjp",
    "cost",
    "gather",
    "key_mask",
    "merge",
    "models",
    "partition",
    "plan",
    "route",
    "summarize",
]


def __dir__() -> list[str]:
    """With ``nn``, which ``from bilevel import *`` leaves out: it needs torch."""
    return sorted({*globals(), *__all__, "nn"})


def __getattr__(name: str) -> ModuleType:
    """``bilevel.models`` and ``bilevel.nn`` without an import of their own, and without its cost
    before they are used."""
    if name in ("models", "nn"):
        return import_module(f"bilevel.{name}")
    raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
