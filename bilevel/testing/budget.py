"""The error budget: no further from float64 than plain evaluation in the dtype of the tokens."""

from __future__ import annotations

import numpy as np

from bilevel.protocol import Backend
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, to_numpy
from bilevel.testing.asserts import expect
from bilevel.testing.attention import Regions, any_regions, attend
from bilevel.testing.bounds import ROUNDOFF, attention_bound, largest, rounding_bound
from bilevel.testing.bra import call
from bilevel.testing.regions import any_routes
from bilevel.testing.strategies import Case, Inputs, inputs


def error_is_within_the_budget(backend: Backend, case: Case) -> None:
    """The largest error of attend is at most that of plain evaluation in the dtype of the case.

    Beyond it is allowed what no evaluation in that dtype avoids: sums of one term, each step
    rounded once.
    """
    regions = any_regions(backend, case)
    everything = np.ones((1, 1, 1, 1, 1), bool)
    _assert_within_the_budget(
        case, regions, to_numpy(attend(backend, case, regions).out), everything
    )


def error_of_bra_is_within_the_budget(backend: Backend, case: Case) -> None:
    """So is that of bra under given routes, however it is fused."""
    arrays = inputs(backend, case)
    routes = any_routes(backend, case)
    out = reference.partitioned(to_numpy(call(backend, case, arrays, routes=routes)), case.q_grid)
    exact = Inputs(*map(to_numpy, arrays))
    real = reference.token_mask(case.q_grid)[:, :, None, None]
    _assert_within_the_budget(case, _routed_regions(case, exact, to_numpy(routes)), out, real)


def _routed_regions(case: Case, exact: Inputs, index: NumpyArray) -> Regions:
    """The arguments of attend that bra under the routes ``index`` stands for."""
    q = reference.partitioned(exact.q, case.q_grid)
    images, rows = np.arange(case.batch)[:, None, None], index.shape[:2]
    k, v = (
        reference.partitioned(x, case.k_grid)[images, index].reshape(
            *rows, case.keys, *x.shape[-2:]
        )
        for x in (exact.k, exact.v)
    )
    return Regions(q, k, v, reference.token_mask(case.k_grid)[index].reshape(*rows, case.keys))


def _assert_within_the_budget(
    case: Case, regions: Regions, out: NumpyArray, real: NumpyArray
) -> None:
    """The error of ``out (N, R, T, M, Dv)``, where it is ``real``."""
    q, k, v, mask = regions
    want, _ = reference.softmax_attention(q, k, v, case.factor, mask)
    plain = largest(real * (_plain_attention(*regions, case.factor, case.dtype) - want))
    one_q, one_k = (np.full((1, 1, 1, 1), largest(x)) for x in (q, k))
    rounding = largest(rounding_bound(want, case.dtype))
    rounding += attention_bound(one_q, one_k, v, case.factor, case.dtype, keys=1)
    error = largest(real * (out - want))
    expect(
        error <= plain + rounding,
        f"expected an error of at most {plain:.3g}, that of plain {case.dtype}, and {rounding:.3g} "
        f"for rounding, got {error:.3g}",
    )


def _plain_attention(
    q: NumpyArray, k: NumpyArray, v: NumpyArray, mask: NumpyArray, scale: float, dtype: str
) -> NumpyArray:
    """Attention whose every addition, product and exponential is rounded to ``dtype``."""

    def r(x: NumpyArray) -> NumpyArray:
        # Keep as many leading bits as the dtype has: its range does not come into play here.
        mantissa, exponent = np.frexp(x)
        return np.ldexp(np.rint(mantissa / ROUNDOFF[dtype]) * ROUNDOFF[dtype], exponent)

    q, k, v = (x.swapaxes(2, 3) for x in (q, k, v))  # (N, R, M, T or L, D)
    scores = np.zeros((*q.shape[:-1], k.shape[-2]))
    for d in range(q.shape[-1]):
        scores = r(scores + r(q[..., :, None, d] * k[..., None, :, d]))
    scores = np.where(mask[:, :, None, None], r(scores * r(np.array(scale))), -np.inf)
    weights = r(np.exp(r(scores - scores.max(-1, keepdims=True))))
    total = np.zeros(weights.shape[:-1])
    out = np.zeros((*total.shape, v.shape[-1]))
    for i in range(weights.shape[-1]):
        total = r(total + weights[..., i])
        out = r(out + r(weights[..., i, None] * v[..., None, i, :]))
    return r(out / total[..., None]).swapaxes(2, 3)
