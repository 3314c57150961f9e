"""Properties of attend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bilevel import ops
from bilevel.protocol import Array, Attended, Backend
from bilevel.testing.arrays import NumpyArray, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same, expect
from bilevel.testing.bounds import (
    ROUNDOFF,
    attention_bound,
    largest,
    logsumexp_bound,
    rounding_bound,
)
from bilevel.testing.reference import softmax_attention
from bilevel.testing.strategies import Case


class Regions(NamedTuple):
    """Arguments of attend as NumPy arrays, rounded to the dtype of the case."""

    q: NumpyArray
    k: NumpyArray
    v: NumpyArray
    mask: NumpyArray


def out_is_softmax_attention(backend: Backend, case: Case) -> None:
    """Scores, softmax and sums in float32 or wider, rounded once to the dtype of the input."""
    q, k, v, mask = regions = any_regions(backend, case)
    want, _ = softmax_attention(q, k, v, case.factor, mask)
    bound = attention_bound(q, k, v, case.factor, case.dtype, case.keys)
    got = _attend(backend, case, regions)
    assert_close("out", got.out, want, bound + rounding_bound(want, case.dtype))


def lse_is_the_natural_logsumexp(backend: Backend, case: Case) -> None:
    """The logarithm of the softmax's denominator, to base e."""
    q, k, v, mask = regions = any_regions(backend, case)
    _, want = softmax_attention(q, k, v, case.factor, mask)
    bound = logsumexp_bound(q, k, case.factor, case.dtype, case.keys)
    assert_close("lse", _attend(backend, case, regions).lse, want, bound)


def error_is_within_the_budget(backend: Backend, case: Case) -> None:
    """The largest error is at most that of plain evaluation in the dtype of the case.

    Beyond it is allowed what no evaluation in that dtype avoids: sums of one term, each step
    rounded once.
    """
    q, k, v, mask = regions = any_regions(backend, case)
    want, _ = softmax_attention(q, k, v, case.factor, mask)
    plain = largest(_plain_attention(q, k, v, mask, case.factor, case.dtype) - want)
    one_q, one_k = (np.full((1, 1, 1, 1), largest(x)) for x in (q, k))
    rounding = largest(rounding_bound(want, case.dtype))
    rounding += attention_bound(one_q, one_k, v, case.factor, case.dtype, keys=1)
    error = largest(to_numpy(_attend(backend, case, regions).out) - want)
    expect(
        error <= plain + rounding,
        f"expected an error of at most {plain:.3g}, that of plain {case.dtype}, and {rounding:.3g} "
        f"for rounding, got {error:.3g}",
    )


def masked_places_do_not_matter(backend: Backend, case: Case) -> None:
    """Whatever a masked key or value holds, NaN included, the result has the same bits."""
    regions = any_regions(backend, case)
    want = _attend(backend, case, regions)
    hidden = ~regions.mask
    for garbage in (np.nan, np.inf, -1e4):
        k, v = regions.k.copy(), regions.v.copy()
        k[hidden] = v[hidden] = garbage
        got = _attend(backend, case, regions._replace(k=k, v=v))
        assert_same(f"out with {garbage} in masked places", got.out, want.out)
        assert_same(f"lse with {garbage} in masked places", got.lse, want.lse)


def no_mask_is_all_true(backend: Backend, case: Case) -> None:
    """``mask=None`` and a mask that hides nothing give the same result."""
    q, k, v, mask = regions = any_regions(backend, case)
    got = _attend(backend, case, regions, masked=False)
    want = _attend(backend, case, regions._replace(mask=np.ones_like(mask)))
    bound = 2 * attention_bound(q, k, v, case.factor, case.dtype, case.keys)
    exact = to_numpy(want.out)
    assert_close("out", got.out, exact, bound + 2 * rounding_bound(exact, case.dtype))


def any_regions(backend: Backend, case: Case) -> Regions:
    """Normally distributed tokens; about half of the keys take part, one at least in each row."""
    rng, home = case.rng(), home_of(backend)
    rows, m = (case.batch, case.grid.num_regions), case.heads
    q = case.spread * rng.standard_normal((*rows, case.grid.region_tokens, m, case.head_dim))
    k = case.spread * rng.standard_normal((*rows, case.keys, m, case.head_dim))
    v = rng.standard_normal((*rows, case.keys, m, case.value_dim))
    mask = rng.random((*rows, case.keys)) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    q, k, v = (to_numpy(from_numpy(x, home, case.dtype)) for x in (q, k, v))
    return Regions(q, k, v, mask)


def _attend(backend: Backend, case: Case, regions: Regions, masked: bool = True) -> Attended:
    home = home_of(backend)
    q, k, v = (from_numpy(x, home, case.dtype) for x in regions[:3])
    mask: Array = from_numpy(regions.mask, home) if masked else None
    return ops.attend(q, k, v, mask=mask, scale=case.scale, backend=backend)


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
