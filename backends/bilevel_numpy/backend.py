"""The backend as a value: which problems it takes, and its functions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from bilevel.protocol import Backend, Exchange, Problem
from bilevel_numpy import primitives
from bilevel_numpy.pullbacks import bra_vjp

DTYPES = ("float16", "float32", "float64")


def refuses(problem: Problem) -> str | None:
    on_cpu = (problem.library, problem.device) == ("numpy", "cpu")
    takes = on_cpu and problem.dtype in (*DTYPES, "")
    return None if takes else f"takes only {', '.join(DTYPES)} numpy arrays on cpu"


def extent(index: primitives.Array) -> tuple[int, int]:
    return int(index.min()), int(index.max())


def give(x: primitives.Array) -> primitives.Array:
    """``x`` as other libraries take it: not read-only, for they would refuse it, though nobody
    writes; and copied if its strides are negative or no multiple of its items' size."""
    if any(stride < 0 or stride % x.itemsize for stride in x.strides):
        return x.copy()
    memory = {**x.__array_interface__, "data": (x.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=memory, owner=x))


BACKEND = Backend(
    name="numpy",
    library="numpy",
    refuses=refuses,
    partition=primitives.partition,
    merge=primitives.merge,
    summarize=primitives.summarize,
    route=primitives.route,
    gather=primitives.gather,
    key_mask=primitives.key_mask,
    attend=primitives.attend,
    bra_vjp=bra_vjp,
    extent=extent,
    exchange=Exchange(take=np.from_dlpack, give=give),
)
