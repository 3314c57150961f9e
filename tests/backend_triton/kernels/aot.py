"""Compile Triton kernels for GPUs that are not here, exactly as a launch there would.

A driver that stands in for CUDA's tells Triton the target; launches then compile, and run nothing.
Not to be used in a process with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

SHARED_MEMORY = {80: 166_912, 90: 232_448}
"""Bytes that one program may have, by compute capability."""


class Compiled(NamedTuple):
    """What one launch was compiled to."""

    kernel: str
    ptx: str
    registers: int
    stack: int
    """Bytes of local memory: registers that are spilled."""
    shared: int
    warps: int


class _Driver:
    """As much of a driver as compilation asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # what was compiled is kept for each device

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(capability: int, launch: Callable[[], object]) -> list[Compiled]:
    """What the launches in ``launch()`` are compiled to for a compute capability."""
    found = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, warmup=True, **options)
        found.append(_described(self.__name__, kernel))
        return kernel

    with (
        mock.patch.object(driver, "_active", _Driver(capability)),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        launch()
    return found


def _described(name: str, kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[-1]) for what in ("REG", "STACK"))
    metadata = kernel.metadata
    return Compiled(name, kernel.asm["ptx"], registers, stack, metadata.shared, metadata.num_warps)
