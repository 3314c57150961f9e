"""Compile CUDA C++ for GPUs that are not here, as CuPy would, and say what that took."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if sys.platform != "linux":
    pytest.skip("NVRTC and its headers are installed on Linux only", allow_module_level=True)

from cuda import pathfinder
from cuda.core import Program, ProgramOptions

REGISTERS = 65_536
"""Those of a multiprocessor, which the threads of its blocks share."""

SHARED_MEMORY = {80: 166_912, 90: 232_448}
"""Bytes that one block may have, by compute capability."""


class Compiled(NamedTuple):
    """What a kernel was compiled to."""

    name: str
    registers: int
    """Those of each thread."""
    stack: int
    """Bytes of local memory."""
    spill_stores: int
    """Bytes of registers that are stored there."""
    spill_loads: int
    shared: int
    """Bytes of shared memory, beside what a launch asks for."""
    threads: int | None
    """The most of a block, by ``__launch_bounds__``."""
    sass: str
    """Its instructions: ``HMMA`` multiplies matrices, ``LDSM`` loads them, ``LDGSTS`` copies."""


def compiled(
    code: str, names: Sequence[str], capability: int, **options: Any
) -> dict[str, Compiled]:
    """The kernels of name expressions, compiled by NVRTC for a compute capability.

    ``options`` are those of ``cuda.core.ProgramOptions``. For a text that does not compile,
    cuda.core raises what NVRTC says.
    """
    chosen = ProgramOptions(
        std="c++17",
        arch=f"sm_{capability}",
        include_path=[pathfinder.find_nvidia_header_directory("cudart")],
        ptxas_options=["-v"],
        **options,
    )
    log = io.StringIO()
    binary = Program(code, "c++", chosen).compile("cubin", name_expressions=list(names), logs=log)
    symbols = {name: symbol.decode() for name, symbol in binary.symbol_mapping.items()}
    usage = _by_symbol(r"Function properties for (\S+)", log.getvalue())
    sass = _by_symbol(r"Function : (\S+)", _dumped(binary.code, "-sass"))
    attributes = _by_symbol(r"^\.nv\.info\.(\S+)", _dumped(binary.code, "-elf"))
    return {
        name: _described(name, usage[symbol], attributes[symbol], sass[symbol])
        for name, symbol in symbols.items()
    }


def _dumped(binary: bytes, what: str) -> str:
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        raise RuntimeError("cuobjdump reads what NVRTC compiled, and comes with Triton: install it")
    tool = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([tool, what, file.name], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def _by_symbol(heading: str, text: str) -> dict[str, str]:
    """The parts of a text that begin with a heading, which captures the symbol."""
    parts = re.split(heading, text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _described(name: str, usage: str, attributes: str, sass: str) -> Compiled:
    def number(pattern: str, otherwise: int | None = None) -> int:
        found = re.search(pattern, usage)
        if found is not None:
            return int(found[1])
        if otherwise is None:
            raise ValueError(f"ptxas says of {name} nothing like {pattern!r}, but {usage!r}")
        return otherwise

    threads = re.search(r"EIATTR_MAX_THREADS\s+Format:\s+\S+\s+Value:\s+(0x[0-9a-f]+)", attributes)
    return Compiled(
        name,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        shared=number(r"(\d+) bytes smem", otherwise=0),
        threads=int(threads[1], 16) if threads else None,
        sass=sass,
    )
