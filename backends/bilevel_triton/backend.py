"""The backend as a value: torch's, with fused kernels for the operator."""

from __future__ import annotations

from dataclasses import replace

from bilevel.protocol import Problem
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton.operator import bra, bra_vjp

DTYPES = ("float16", "bfloat16", "float32")

WIDEST = 128
"""Channels of a head that a tile holds."""

AXES = 3
"""Spatial axes that kernels count."""


def refuses(problem: Problem) -> str | None:
    if problem.library != "torch" or problem.device != "cuda" or problem.dtype not in DTYPES:
        return f"{', '.join(DTYPES)} torch tensors on CUDA"
    if (problem.head_dim or 0) > WIDEST:
        return f"heads of at most {WIDEST} channels (here {problem.head_dim})"
    if (problem.axes or 0) > AXES:
        return f"maps of at most {AXES} spatial axes (here {problem.axes})"
    return None


BACKEND = replace(
    TORCH, name="triton", refuses=refuses, bra=bra, formulations={}, vjp=None, bra_vjp=bra_vjp
)
