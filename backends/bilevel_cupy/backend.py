"""The backend as a value, for a namespace of arrays: CuPy's on a GPU, others in tests."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from bilevel.protocol import Backend, Exchange, Problem
from bilevel_cupy import fused, primitives, pullbacks

DTYPES = ("float16", "bfloat16", "float32", "float64")


def refuses(problem: Problem) -> str | None:
    on_cuda = (problem.library, problem.device) == ("cupy", "cuda")
    takes = on_cuda and problem.dtype in (*DTYPES, "")
    return None if takes else f"takes only {', '.join(DTYPES)} cupy arrays on CUDA"


def composed(xp: Any, exchange: Exchange | None = None) -> Backend:
    """The backend whose functions work on arrays of the namespace ``xp``, without kernels."""
    return Backend(
        name="cupy",
        library="cupy",
        refuses=refuses,
        partition=partial(primitives.partition, xp),
        merge=partial(primitives.merge, xp),
        summarize=partial(primitives.summarize, xp),
        route=partial(primitives.route, xp),
        gather=partial(primitives.gather, xp),
        key_mask=partial(primitives.key_mask, xp),
        attend=partial(primitives.attend, xp),
        bra_vjp=partial(pullbacks.bra_vjp, xp),
        exchange=exchange,
    )


def bind(xp: Any, exchange: Exchange | None = None) -> Backend:
    """The same, its operator fused where ``xp`` compiles kernels, as CuPy does."""
    primitives_alone = composed(xp, exchange)
    if not hasattr(xp, "RawModule"):
        return primitives_alone
    return replace(
        primitives_alone,
        bra=partial(fused.bra, xp, primitives_alone),
        bra_vjp=partial(fused.bra_vjp, xp, primitives_alone),
    )
