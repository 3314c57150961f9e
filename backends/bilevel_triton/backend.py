"""The backend as a value: torch's, with fused kernels for routing and for the operator."""

from __future__ import annotations

from dataclasses import replace

import torch

from bilevel.protocol import Problem
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton.custom_ops import bra, bra_routes, bra_vjp

DTYPES = ("float16", "bfloat16", "float32")

MAX_HEAD_DIM = 128
"""Most channels per head that a tile holds."""

MIN_CAPABILITY = (8, 0)
"""Compute capability of the first GPUs whose tensor cores have all the dtypes."""

MAX_AXES = 3
"""Most spatial axes that kernels address."""


def refuses(problem: Problem) -> str | None:
    on_cuda = (problem.library, problem.device) == ("torch", "cuda")
    if not on_cuda or problem.dtype not in (*DTYPES, ""):
        return f"takes only {', '.join(DTYPES)} torch tensors on CUDA"
    if not _capable():
        major, minor = MIN_CAPABILITY
        return f"takes only GPUs of compute capability {major}.{minor} or higher"
    if (problem.head_dim or 0) > MAX_HEAD_DIM:
        return f"takes only heads of at most {MAX_HEAD_DIM} channels (here {problem.head_dim})"
    if (problem.axes or 0) > MAX_AXES:
        return f"takes only maps of at most {MAX_AXES} spatial axes (here {problem.axes})"
    return None


@torch.compiler.assume_constant_result
def _capable() -> bool:
    """Whether the current GPU has the capability; assumed where there is none to ask."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= MIN_CAPABILITY


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
