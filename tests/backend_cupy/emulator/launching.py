"""Kernels of a text, for the tests of the emulator itself."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.backend_cupy.emulator.emulator import Emulator, Kernel

ORDERS = ("forward", "backward", 0, 1, 2)
"""Orders of blocks, warps and lanes: one each way, and three that are shuffled."""

HALVES = [("__half", np.float16), ("__nv_bfloat16", ml_dtypes.bfloat16)]
"""Types of two bytes, as CUDA C++ and NumPy have them."""


def kernel_of(code: str, name: str = "kernel", order: str | int = "forward") -> Kernel:
    """The kernel of a text."""
    module = Emulator(order).RawModule(code=code, name_expressions=[name])
    return module.get_function(name)


def launch(
    code: str,
    *args: Any,
    name: str = "kernel",
    blocks: int = 1,
    threads: int = 32,
    shared: int = 0,
    order: str | int = "forward",
) -> None:
    """Run the kernel of a text."""
    kernel_of(code, name, order)((blocks,), (threads,), args, shared_mem=shared)
