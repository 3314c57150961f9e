"""The backend as a value: which problems it takes, and its functions."""

from __future__ import annotations

import numpy as np

from bilevel.protocol import Backend, Exchange, Problem
from bilevel_numpy import primitives
from bilevel_numpy.pullbacks import bra_vjp

DTYPES = ("float16", "float32", "float64")


def refuses(problem: Problem) -> str | None:
    takes = problem.library == "numpy" and problem.dtype in DTYPES
    return None if takes else f"{', '.join(DTYPES)} numpy arrays on cpu"


def extent(index: primitives.Array) -> tuple[int, int]:
    return int(index.min()), int(index.max())


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
    exchange=Exchange(take=np.from_dlpack, give=np.asarray),
)
