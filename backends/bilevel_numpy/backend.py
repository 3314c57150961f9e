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


def take(x: object) -> primitives.Array:
    """The memory of another library's array, for the caller to write to: NumPy 1.26 marks all that
    comes by DLPack read-only, and later ones what comes from libraries that cannot say else."""
    return _writeable(np.from_dlpack(x))  # type: ignore[arg-type] # what has __dlpack__


def give(x: primitives.Array) -> primitives.Array:
    """``x`` as other libraries take it: not read-only, for they would refuse it, though nobody
    writes; and copied if its strides are negative or no multiple of its items' size."""
    if any(stride < 0 or stride % x.itemsize for stride in x.strides):
        return x.copy()
    return _writeable(x)


def _writeable(x: primitives.Array) -> primitives.Array:
    """The same memory, not read-only."""
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
    exchange=Exchange(take=take, give=give),
)
