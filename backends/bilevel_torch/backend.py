"""The backend as a value: which problems it takes, and its functions."""

from __future__ import annotations

from torch import Tensor
from torch.utils.dlpack import from_dlpack

from bilevel.protocol import Backend, Exchange, Problem
from bilevel_torch import primitives
from bilevel_torch.autograd import custom_vjp, traced, vjp
from bilevel_torch.bra import FORMULATIONS, bra, bra_routes
from bilevel_torch.streams import on, stream

DTYPES = ("float16", "bfloat16", "float32", "float64")


def refuses(problem: Problem) -> str | None:
    takes = problem.library == "torch" and problem.dtype in (*DTYPES, "")
    return None if takes else f"takes only {', '.join(DTYPES)} torch tensors"


def extent(index: Tensor) -> tuple[int, int] | None:
    if index.device.type != "cpu" or traced():
        return None
    return int(index.long().min()), int(index.long().max())


def give(x: Tensor) -> Tensor:
    """Memory as it is meant: without a graph, and without a negation that is yet to be done."""
    return x.detach().resolve_neg()


BACKEND = Backend(
    name="torch",
    library="torch",
    refuses=refuses,
    partition=primitives.partition,
    merge=primitives.merge,
    summarize=primitives.summarize,
    route=primitives.route,
    gather=primitives.gather,
    key_mask=primitives.key_mask,
    attend=primitives.attend,
    bra_routes=bra_routes,
    bra=bra,
    formulations=FORMULATIONS,
    vjp=vjp,
    extent=extent,
    exchange=Exchange(from_dlpack, give, custom_vjp, stream, on),
)
