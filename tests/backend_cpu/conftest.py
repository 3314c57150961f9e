"""Kernels for vectors of each width that this CPU has."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from bilevel_cpu import call, compiler, library
from tests.frameworks import load_or_skip

WIDTHS = {
    "widest": (),
    "at most 256 bits": ("-mno-avx512f",),
    "at most 128 bits": ("-mno-avx",),
}
"""Options that leave out instructions; compilers for other CPUs than x86-64 know none of them."""


@pytest.fixture(scope="session", params=WIDTHS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library for each of two dtypes, with vectors of a width."""
    load_or_skip("cpu-numpy")
    folder = tmp_path_factory.mktemp("kernels")
    for stored in ("float", "double"):
        try:
            compiler.build(stored, folder / stored, WIDTHS[request.param])
        except compiler.CompilerError as error:
            if not WIDTHS[request.param]:
                raise
            pytest.skip(f"the compiler leaves out no instructions: {error}")
    return folder


@pytest.fixture
def of_each_width(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the test, the kernel has vectors of one width."""

    def library_of(dtype: str) -> ctypes.CDLL:
        return ctypes.CDLL(str(kernels / library.STORED[dtype]))

    monkeypatch.setattr(call, "library", library_of)
