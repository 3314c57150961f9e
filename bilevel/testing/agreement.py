"""Properties of what a backend may fuse, read or exchange: it agrees with the primitives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel import ops
from bilevel.protocol import Backend
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same, expect
from bilevel.testing.bounds import attention_bound, rounding_bound
from bilevel.testing.bra import call, call_with_routes
from bilevel.testing.regions import any_index, any_routes
from bilevel.testing.routing import exact_scores
from bilevel.testing.strategies import Case, Inputs, inputs


def bra_is_the_primitives_composed(backend: Backend, case: Case) -> None:
    """Under given routes: partition, gather, attend and merge, one by one, give the same."""
    q, k, v = arrays = inputs(backend, case)
    routes = any_routes(backend, case)
    got = call(backend, case, arrays, routes=routes)
    rows = (
        ops.gather(ops.partition(x, case.k_grid, backend=backend), routes, backend=backend)
        for x in (k, v)
    )
    mask = ops.key_mask(routes, case.k_grid, backend=backend)
    regions = ops.partition(q, case.q_grid, backend=backend)
    out, _ = ops.attend(regions, *rows, mask=mask, scale=case.scale, backend=backend)
    want = to_numpy(ops.merge(out, case.q_grid, backend=backend))
    assert_close("bra", got, want, _twice_the_bound(case, arrays, want))


def bra_routes_as_route_does(backend: Backend, case: Case) -> None:
    """Among tokens whose scores every order of sums gives exactly: ties to the lower region, NaN
    last."""
    case = replace(
        case,
        spatial=tuple(2 * s for s in case.regions),
        kv_spatial=tuple(2 * s for s in case.kv_regions),
    )
    q, k, v = _integer_tokens(case)
    exact = exact_scores(reference.means(q, case.q_grid), reference.means(k, case.k_grid))
    exact[np.isnan(exact)] = -np.inf
    want = np.argsort(-exact, axis=-1, kind="stable")[..., : case.topk]
    home = home_of(backend)
    arrays = Inputs(*(from_numpy(x, home, case.dtype) for x in (q, k, v)))
    _, found = call_with_routes(backend, case, arrays)
    assert_same("the routes of bra", found.index, want)
    q_mean = ops.summarize(arrays.q, case.q_grid, backend=backend)
    k_mean = ops.summarize(arrays.k, case.k_grid, backend=backend)
    composed = ops.route(q_mean, k_mean, case.topk, backend=backend)
    assert_same("the routes of bra", found.index, composed.index)
    # Adding zero makes every zero positive: the sign of a sum of zeros is no part of the contract.
    scores = to_numpy(composed.score) + 0.0
    assert_same("the scores of bra", to_numpy(found.score) + 0.0, scores)


def extent_is_right_or_none(backend: Backend, case: Case) -> None:
    """The lowest and the highest index, as two ints, or None."""
    rows = any_index(case)
    for dtype in ("int32", "int64"):
        got = backend.extent(from_numpy(rows, home_of(backend), dtype)) if rows.size else None
        want = got if got is None else (int(rows.min()), int(rows.max()))
        expect(got == want, f"expected the extent of {dtype} to be {want} or None, got {got}")


def exchanged_arrays_keep_their_bits(backend: Backend, case: Case) -> None:
    """Taken from NumPy and given back; so bra takes NumPy arrays too, and returns them."""
    if case.dtype == "bfloat16":  # which NumPy does not have
        case = replace(case, dtype="float32")
    own = inputs(backend, case)
    foreign = Inputs(*(to_numpy(x).astype(case.dtype) for x in own))
    assert backend.exchange is not None
    for name, x, mine in zip("qkv", foreign, own, strict=True):
        taken = backend.exchange.take(x)
        expect(str(taken.dtype) == str(mine.dtype), f"expected {mine.dtype}, got {taken.dtype}")
        assert_same(f"{name}, taken from NumPy,", taken, x)
        assert_same(f"{name}, given to NumPy,", np.from_dlpack(backend.exchange.give(taken)), x)
    routes = any_routes(backend, case)
    out = call(backend, case, foreign, routes=np.array(to_numpy(routes)))
    expect(isinstance(out, np.ndarray), f"expected NumPy's array back, got {type(out)}")
    want = to_numpy(call(backend, case, own, routes=routes))
    assert_close("bra of NumPy arrays", out, want, _twice_the_bound(case, own, want))


def _twice_the_bound(case: Case, arrays: Inputs, out: NumpyArray) -> NumpyArray:
    """How far two results may be from each other, near ``out``."""
    exact = Inputs(*map(to_numpy, arrays))
    bound = attention_bound(*exact, case.factor, case.dtype, case.keys)
    return 2 * (bound + rounding_bound(out, case.dtype))


def _integer_tokens(case: Case) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """q, k and v of small integers; some regions of q and k have a NaN in their last token."""
    rng, n, m = case.rng(), case.batch, case.heads
    q = rng.integers(-1, 2, (n, *case.spatial, m, case.head_dim)).astype(np.float64)
    k = rng.integers(-1, 2, (n, *case.kv_spatial, m, case.head_dim)).astype(np.float64)
    v = rng.integers(-1, 2, (n, *case.kv_spatial, m, case.value_dim)).astype(np.float64)
    for x, grid, share in ((q, case.q_grid, 0.2), (k, case.k_grid, 0.3)):
        for region in reference.regions_of(grid):
            reference.flat(x)[rng.random(n) < share, region.tokens[-1]] = np.nan
    return q, k, v
