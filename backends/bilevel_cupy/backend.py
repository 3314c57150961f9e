"""The backend as a value, for a namespace of arrays: CuPy's on a GPU, others in tests."""

from __future__ import annotations

from functools import partial
from typing import Any

from bilevel.protocol import Backend, Exchange, Problem
from bilevel_cupy import fused, gathered, primitives, routing

DTYPES = ("float16", "bfloat16", "float32", "float64")


def refuses(problem: Problem) -> str | None:
    on_cuda = (problem.library, problem.device) == ("cupy", "cuda")
    takes = on_cuda and problem.dtype in (*DTYPES, "")
    return None if takes else f"takes only {', '.join(DTYPES)} cupy arrays on CUDA"


def bind(xp: Any, exchange: Exchange | None = None, *, kernels: bool = False) -> Backend:
    """The backend for arrays of the namespace ``xp``, which is the first argument of each function.

    With ``kernels`` the operator is fused, and ``xp`` compiles them, as CuPy does; without, it is
    gathered.
    """
    return Backend(
        name="cupy",
        library="cupy",
        refuses=refuses,
        partition=partial(primitives.partition, xp),
        merge=partial(primitives.merge, xp),
        summarize=partial(routing.summarize, xp),
        route=partial(routing.route, xp),
        gather=partial(primitives.gather, xp),
        key_mask=partial(primitives.key_mask, xp),
        attend=partial(primitives.attend, xp),
        bra=partial(fused.bra, xp) if kernels else None,
        bra_vjp=partial(fused.bra_vjp if kernels else gathered.bra_vjp, xp),
        exchange=exchange,
    )
