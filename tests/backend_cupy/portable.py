"""The CuPy backend bound to libraries that need no GPU."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from types import MappingProxyType

import ml_dtypes  # noqa: F401 # tells NumPy of bfloat16

from bilevel import Backend, BackendSpec, Problem
from bilevel_cupy.backend import DTYPES, bind

TAKES = MappingProxyType({"numpy": DTYPES, "array_api_strict": ("float32", "float64")})
"""The dtypes of each library: array_api_strict has nothing but what the standard has."""


def bound_to(library: str) -> Backend:
    """The backend for arrays of ``library`` on a CPU."""

    def refuses(problem: Problem) -> str | None:
        on_cpu = (problem.library, problem.device) == (library, "cpu")
        takes = on_cpu and problem.dtype in (*TAKES[library], "")
        return None if takes else f"takes only {', '.join(TAKES[library])} {library} arrays on CPU"

    return replace(bind(import_module(library)), library=library, refuses=refuses)


STRICT = bound_to("array_api_strict")

SPEC = BackendSpec(
    name="strict",
    library="array_api_strict",
    requires="array-api-strict",
    install="python -m pip install array-api-strict",
    load="tests.backend_cupy.portable:STRICT",
)
"""What bilevel has to know of array_api_strict, to take its arrays."""
