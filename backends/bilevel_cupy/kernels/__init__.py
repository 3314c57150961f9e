"""The CUDA C++ of the backend, compiled at its first use by NVRTC; README.md explains its words.

CuPy 14.2 keeps what it compiled on disk; CuPy 13 compiles again in each process what goes by a C++
expression.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

FILES = (
    "hardware.cuh",
    "numbers.cuh",
    "call.cuh",
    "rows.cuh",
    "products.cuh",
    "streamed.cuh",
    "token_table.cu",
    "block_lists.cu",
    "forward.cu",
    "backward_dq.cu",
    "backward_dkdv.cu",
)
"""The files of the text, each after those it needs."""

OPTIONS = ("-std=c++17",)


@cache
def text() -> str:
    """All files as one, for CuPy does not notice a change of a file that another includes."""
    parts = ("#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n",)
    return "".join(
        (*parts, *(f'#line 1 "{name}"\n{(files(__name__) / name).read_text()}' for name in FILES))
    )


@cache
def kernel(xp: Any, name: str) -> Any:
    """The kernel that a C++ expression names, such as ``"forward<float, 32, 16>"``."""
    module = xp.RawModule(code=text(), options=OPTIONS, name_expressions=(name,))
    return module.get_function(name)
