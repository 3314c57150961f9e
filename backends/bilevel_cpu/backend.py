"""The backend for torch as a value: torch's, with the kernel for routing and the operator."""

from __future__ import annotations

from dataclasses import replace

from bilevel.protocol import Problem
from bilevel_cpu.call import MAX_AXES
from bilevel_cpu.custom_ops import bra, bra_routes, bra_vjp
from bilevel_cpu.library import STORED, why_not
from bilevel_torch.backend import BACKEND as TORCH


def refuses(problem: Problem) -> str | None:
    on_cpu = (problem.library, problem.device) == ("torch", "cpu")
    if not on_cpu or problem.dtype not in (*STORED, ""):
        return f"takes only {', '.join(STORED)} torch tensors on CPUs"
    if (problem.axes or 0) > MAX_AXES:
        return f"takes only maps of at most {MAX_AXES} spatial axes (here {problem.axes})"
    return why_not(problem.dtype) if problem.dtype else None


BACKEND = replace(
    TORCH,
    name="cpu",
    refuses=refuses,
    bra_routes=bra_routes,
    bra=bra,
    formulations={},
    vjp=None,
    bra_vjp=bra_vjp,
)
