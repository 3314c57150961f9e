"""The backend as a value: torch's, with fused kernels for routing and for the operator."""

from __future__ import annotations

from dataclasses import replace

import torch

from bilevel.protocol import Problem
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton.custom_ops import bra, bra_routes, bra_vjp

DTYPES = ("float16", "bfloat16", "float32")

WIDEST = 128
"""Channels of a head that a tile holds."""

CAPABILITY = (8, 0)
"""The first GPUs whose tensor cores know all the dtypes."""

AXES = 3
"""Spatial axes that kernels count."""


def refuses(problem: Problem) -> str | None:
    on_cuda = (problem.library, problem.device) == ("torch", "cuda")
    if not on_cuda or problem.dtype not in (*DTYPES, ""):
        return f"takes only {', '.join(DTYPES)} torch tensors on CUDA"
    if not _capable():
        return f"takes only GPUs of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or higher"
    if (problem.head_dim or 0) > WIDEST:
        return f"takes only heads of at most {WIDEST} channels (here {problem.head_dim})"
    if (problem.axes or 0) > AXES:
        return f"takes only maps of at most {AXES} spatial axes (here {problem.axes})"
    return None


@torch.compiler.assume_constant_result
def _capable() -> bool:
    """Of a GPU that is not there nothing is known."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= CAPABILITY


BACKEND = replace(
    TORCH,
    name="triton",
    refuses=refuses,
    bra_routes=bra_routes,
    bra=bra,
    formulations={},
    vjp=None,
    bra_vjp=bra_vjp,
)
