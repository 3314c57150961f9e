"""What runs on the GPU; README.md has the words, and the kernels of a call in order."""

from __future__ import annotations

import os
from shutil import which

import triton

OLDEST = (3, 6)
"""The first Triton whose kernels take constants that are named tuples."""

if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"triton {triton.__version__} is too old, {OLDEST[0]}.{OLDEST[1]} is needed")

if not (os.environ.get("CC") or which("gcc") or which("clang")):
    raise ImportError("Triton launches kernels by way of a C compiler, and there is none")
