"""Properties of attend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bilevel import ops
from bilevel.protocol import Array, Attended, Backend
from bilevel.testing.arrays import NumpyArray, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same
from bilevel.testing.bounds import attention_bound, logsumexp_bound, rounding_bound
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
    got = attend(backend, case, regions)
    assert_close("out", got.out, want, bound + rounding_bound(want, case.dtype))


def lse_is_the_natural_logsumexp(backend: Backend, case: Case) -> None:
    """The logarithm of the softmax's denominator, to base e."""
    q, k, v, mask = regions = any_regions(backend, case)
    _, want = softmax_attention(q, k, v, case.factor, mask)
    bound = logsumexp_bound(q, k, case.factor, case.dtype, case.keys)
    assert_close("lse", attend(backend, case, regions).lse, want, bound)


def masked_keys_do_not_matter(backend: Backend, case: Case) -> None:
    """Whatever a masked key or value holds, NaN included, the result has the same bits."""
    regions = any_regions(backend, case)
    want = attend(backend, case, regions)
    hidden = ~regions.mask
    for garbage in (np.nan, np.inf, -1e4):
        k, v = regions.k.copy(), regions.v.copy()
        k[hidden] = v[hidden] = garbage
        got = attend(backend, case, regions._replace(k=k, v=v))
        assert_same(f"out with {garbage} in masked keys", got.out, want.out)
        assert_same(f"lse with {garbage} in masked keys", got.lse, want.lse)


def no_mask_is_all_true(backend: Backend, case: Case) -> None:
    """``mask=None`` and a mask that hides nothing give the same result."""
    q, k, v, mask = regions = any_regions(backend, case)
    got = attend(backend, case, regions, masked=False)
    want = attend(backend, case, regions._replace(mask=np.ones_like(mask)))
    bound = 2 * attention_bound(q, k, v, case.factor, case.dtype, case.keys)
    exact = to_numpy(want.out)
    assert_close("out", got.out, exact, bound + 2 * rounding_bound(exact, case.dtype))


def any_regions(backend: Backend, case: Case) -> Regions:
    """Normally distributed tokens; about half of the keys take part, one at least in each row."""
    rng, home = case.rng(), home_of(backend)
    rows, m = (case.batch, case.q_grid.num_regions), case.heads
    q = case.spread * rng.standard_normal((*rows, case.q_grid.region_tokens, m, case.head_dim))
    k = case.spread * rng.standard_normal((*rows, case.keys, m, case.head_dim))
    v = rng.standard_normal((*rows, case.keys, m, case.value_dim))
    mask = rng.random((*rows, case.keys)) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    q, k, v = (to_numpy(from_numpy(x, home, case.dtype)) for x in (q, k, v))
    return Regions(q, k, v, mask)


def attend(backend: Backend, case: Case, regions: Regions, masked: bool = True) -> Attended:
    """attend on the regions of a case, with their mask or without."""
    home = home_of(backend)
    q, k, v = (from_numpy(x, home, case.dtype) for x in regions[:3])
    mask: Array = from_numpy(regions.mask, home) if masked else None
    return ops.attend(q, k, v, mask=mask, scale=case.scale, backend=backend)
