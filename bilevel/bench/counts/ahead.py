"""Compile Triton kernels for GPUs that are not here, exactly as a launch there would.

A driver that stands in for CUDA's tells Triton the target; launches then compile, and run nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from bilevel.errors import BackendUnavailable, InputError

SHARED_MEMORY = {80: 166_912, 90: 232_448}
"""Bytes that one program may have, by compute capability."""


class Compiled(NamedTuple):
    """One launch, and what its kernel was compiled to."""

    kernel: str
    arguments: Mapping[str, Any]
    """By the names of the kernel's parameters."""
    programs: int
    warps: int
    """Of each program."""
    registers: int
    """Of each thread."""
    stack: int
    """Bytes of local memory of each thread: registers that are spilled."""
    shared: int
    """Bytes of shared memory of each program."""
    ptx: str
    sass: str


class _Driver:
    """As much of a driver as compilation asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # what was compiled is kept for each device

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(capability: int, launch: Callable[[], object]) -> list[Compiled]:
    """What the launches in ``launch()`` are compiled to for a compute capability, as 90.

    Raises BackendUnavailable if Triton is missing; InputError under ``TRITON_INTERPRET=1``, where
    kernels are not compiled.
    """
    function, driver = _triton()
    found: list[Compiled] = []
    run = function.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        named = {**dict(zip(self.arg_names, arguments, strict=False)), **options}
        found.append(_described(self.__name__, named, prod(grid), kernel))
        return kernel

    with (
        mock.patch.object(driver, "_active", _Driver(capability)),
        mock.patch.object(function, "run", compile_only),
    ):
        launch()
    return found


def _triton() -> tuple[Any, Any]:
    """The type of kernels, and what knows the current driver."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise InputError(
            "expected kernels that are compiled, but TRITON_INTERPRET=1 interprets them; unset it"
        )
    try:
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction
    except ImportError as error:
        raise BackendUnavailable(
            f"expected Triton, which compiles the kernels and reads what they became ({error}); "
            'install it with: python -m pip install "triton>=3.6"'
        ) from error
    return JITFunction, driver


def _described(name: str, arguments: Mapping[str, Any], programs: int, kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass = (_dumped(option, file.name) for option in ("-res-usage", "-sass"))
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[-1]) for what in ("REG", "STACK"))
    return Compiled(
        kernel=name,
        arguments=arguments,
        programs=programs,
        warps=kernel.metadata.num_warps,
        registers=registers,
        stack=stack,
        shared=kernel.metadata.shared,
        ptx=kernel.asm["ptx"],
        sass=sass,
    )


def _dumped(option: str, cubin: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, cubin], capture_output=True, text=True, check=True).stdout
