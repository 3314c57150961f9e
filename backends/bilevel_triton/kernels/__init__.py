"""What runs on the GPU.

A map of tokens, ``(N, *spatial, M, D)``, comes as a pair: ``at``, where it begins, and ``strides``,
of images, tokens, heads and channels. Sides of a call, queries or keys, have ``sizes``, their
tokens on three axes (one of fewer has axes of one token in front), and a split, the regions on
them. What kernels are compiled for comes as one constant, ``HOW``: see
:class:`bilevel_triton.call.How`.
"""

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
