"""Properties of bra as a whole: what it computes, and which tokens reach which outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bilevel import ops, registry
from bilevel.grid import Grid
from bilevel.protocol import Array, Backend, Routed, Routes
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, contiguous_copy, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_best, assert_close, assert_same, assert_shape, expect
from bilevel.testing.bounds import attention_bound, rounding_bound
from bilevel.testing.regions import any_routes
from bilevel.testing.routing import token_scores
from bilevel.testing.strategies import Case, Inputs, inputs


def topk_of_all_regions_is_dense_attention(backend: Backend, case: Case) -> None:
    """With topk = R every query attends to every token once, however regions are drawn."""
    case = replace(case, topk=case.k_grid.num_regions)
    arrays = inputs(backend, case)
    exact = Inputs(*map(to_numpy, arrays))
    q, k, v = map(reference.flat, exact)
    dense, _ = reference.softmax_attention(q, k, v, case.factor)
    want = dense.reshape(*exact.q.shape[:-1], v.shape[-1])
    got = call(backend, case, arrays)
    assert_close("bra with topk = R", got, want, _bound(case, exact, want))


def bra_follows_its_routes(backend: Backend, case: Case) -> None:
    """The best regions are routed to; each query attends to the tokens of its routes, no others."""
    arrays = inputs(backend, case)
    exact = Inputs(*map(to_numpy, arrays))
    out, routes = call_with_routes(backend, case, arrays)
    assert_best("routes", routes.index, *token_scores(exact.q, exact.k, case))
    want = _routed(case, exact, to_numpy(routes.index))
    assert_close("bra", out, want, _bound(case, exact, want))


def given_routes_are_used(backend: Backend, case: Case) -> None:
    """Routes from outside are followed, in int32 and int64; bra's own give the same bits again."""
    arrays = inputs(backend, case)
    exact = Inputs(*map(to_numpy, arrays))
    out, routes = call_with_routes(backend, case, arrays)
    again = call(backend, case, arrays, routes=routes.index)
    assert_same("bra with its own routes given", again, out)
    foreign = to_numpy(any_routes(backend, case))
    want = _routed(case, exact, foreign)
    for dtype in ("int32", "int64"):
        index = from_numpy(foreign, home_of(backend), dtype)
        got, used = call_with_routes(backend, case, arrays, routes=index)
        assert_close(f"bra with {dtype} routes given", got, want, _bound(case, exact, want))
        expect(used.index is index and used.score is None, "expected the given routes back")


def agrees_with_the_reference(backend: Backend, case: Case) -> None:
    """The NumPy backend in float64 routes alike where gaps are clear; then, under its routes,
    attends alike."""
    numpy = registry.load("numpy")
    arrays = inputs(backend, case)
    exact = Inputs(*map(to_numpy, arrays))
    out, routes = call_with_routes(numpy, case, exact)
    _, own = call_with_routes(backend, case, arrays)
    assert_best("routes", own.index, *token_scores(exact.q, exact.k, case))
    shared = from_numpy(routes.index, home_of(backend))
    got = call(backend, case, arrays, routes=shared)
    assert_close("bra under the reference's routes", got, out, 1.01 * _bound(case, exact, out))


def permuting_key_regions_permutes_routes(backend: Backend, case: Case) -> None:
    """Where a key region lies does not matter: routes follow it, and the output is the same."""
    case = uniform(case)
    q, k, v = arrays = inputs(backend, case)
    order = case.rng().permutation(case.k_grid.num_regions)
    k2, v2 = (_permuted(backend, case, x, case.k_grid, order) for x in (k, v))
    moved = Inputs(q, k2, v2)
    out, routes = call_with_routes(backend, case, arrays)
    _, own = call_with_routes(backend, case, moved)
    scores, bound = token_scores(to_numpy(q), to_numpy(k), case)
    assert_best("routes, permuted back", order[to_numpy(own.index)], scores, bound)
    followed = from_numpy(np.argsort(order)[to_numpy(routes.index)], home_of(backend))
    got = call(backend, case, moved, routes=followed)
    near = 2 * _bound(case, Inputs(*map(to_numpy, arrays)), to_numpy(out))
    assert_close("bra with permuted key regions", got, out, near)


def permuting_query_regions_permutes_the_output(backend: Backend, case: Case) -> None:
    """Where a query region lies does not matter: its routes and its output follow it."""
    case = uniform(case)
    q, k, v = arrays = inputs(backend, case)
    order = case.rng().permutation(case.q_grid.num_regions)
    moved = Inputs(_permuted(backend, case, q, case.q_grid, order), k, v)
    out, routes = call_with_routes(backend, case, arrays)
    _, own = call_with_routes(backend, case, moved)
    scores, bound = token_scores(to_numpy(q), to_numpy(k), case)
    assert_best("routes, permuted", own.index, scores[:, order], bound)
    followed = from_numpy(to_numpy(routes.index)[:, order], home_of(backend))
    got = call(backend, case, moved, routes=followed)
    want = permute_regions(to_numpy(out), case.q_grid, order)
    near = 2 * _bound(case, Inputs(*map(to_numpy, arrays)), want)
    assert_close("bra with permuted query regions", got, want, near)


def keys_reach_only_queries_routed_to_them(backend: Backend, case: Case) -> None:
    """Whatever the tokens of a key region become, other outputs keep their bits; NaN is not hidden
    from those who attend to it."""
    # Copies, so that what changes is in values alone: layouts may change the order of sums.
    q, k, v = arrays = Inputs(*map(contiguous_copy, inputs(backend, case)))
    routes = any_routes(backend, case)
    region = int(case.rng().integers(case.k_grid.num_regions))
    attends = (to_numpy(routes) == region).any(-1)
    reached = spread_over_tokens(attends, case.q_grid)
    before = to_numpy(call(backend, case, arrays, routes=routes))
    for value in (-100.0, np.inf, np.nan):
        k2 = fill_key_region(backend, case, k, region, value)
        v2 = fill_key_region(backend, case, v, region, value)
        for name, changed in (("keys", Inputs(q, k2, v)), ("values", Inputs(q, k, v2))):
            after = to_numpy(call(backend, case, changed, routes=routes))
            what = f"outputs not routed to {name} that became {value}"
            assert_same(what, after[~reached], before[~reached])
            hidden = np.isnan(value) and not np.isnan(after[reached]).all()
            expect(not hidden, f"expected NaN {name} to show in every output routed to them")


def queries_reach_only_their_own_output(backend: Backend, case: Case) -> None:
    """Under given routes a NaN query spoils its own output and leaves the bits of all others."""
    # Copies, so that what changes is in values alone: layouts may change the order of sums.
    q, k, v = arrays = Inputs(*map(contiguous_copy, inputs(backend, case)))
    routes = any_routes(backend, case)
    before = to_numpy(call(backend, case, arrays, routes=routes))
    spoiled = to_numpy(q).copy()
    token = case.rng().integers(case.spatial)
    spoiled[:, *token] = np.nan
    changed = Inputs(from_numpy(spoiled, home_of(backend), case.dtype), k, v)
    after = to_numpy(call(backend, case, changed, routes=routes)).copy()
    expect(bool(np.isnan(after[:, *token]).all()), "expected NaN where the query is NaN")
    after[:, *token] = before[:, *token]
    assert_same("outputs of the other queries", after, before)


def no_images_give_no_output(backend: Backend, case: Case) -> None:
    """N = 0 is a batch like any other."""
    case = replace(case, batch=0)
    try:
        out, routes = call_with_routes(backend, case, inputs(backend, case))
    except Exception as error:
        raise AssertionError(f"expected N = 0 to work, got {error!r}") from error
    assert_shape("out", out, (0, *case.spatial, case.heads, case.value_dim))
    assert_shape("routes", routes.index, (0, case.q_grid.num_regions, case.topk))


def call(backend: Backend, case: Case, arrays: Inputs, **more: Any) -> Array:
    """bra on the arrays of a case."""
    regions: dict[str, Any] = {"regions": case.regions, "kv_regions": case.kv_regions}
    given = {"topk": case.topk, "scale": case.scale, "backend": backend, **regions, **more}
    return ops.bra(*arrays, **given)


def call_with_routes(
    backend: Backend, case: Case, arrays: Inputs, **more: Any
) -> tuple[Array, Routes]:
    """bra on the arrays of a case, and its routes."""
    return call(backend, case, arrays, return_routes=True, **more)


def uniform(case: Case) -> Case:
    """The case with every region enlarged to the size of the largest."""

    def enlarged(grid: Grid) -> tuple[int, ...]:
        return tuple(axis.regions * axis.size for axis in grid.axes)

    return replace(case, spatial=enlarged(case.q_grid), kv_spatial=enlarged(case.k_grid))


def permute_regions(x: NumpyArray, grid: Grid, order: NumpyArray) -> NumpyArray:
    """A map whose region i is region ``order[i]`` of ``x``; all of one size."""
    regions = reference.regions_of(grid)
    out = np.empty_like(x, order="C")
    for region, source in zip(regions, order, strict=True):
        reference.flat(out)[:, region.tokens] = reference.flat(x)[:, regions[source].tokens]
    return out


def spread_over_tokens(chosen: NumpyArray, grid: Grid) -> NumpyArray:
    """Regions ``(N, R)`` to their tokens ``(N, *spatial)``."""
    out = np.zeros((chosen.shape[0], *grid.spatial, 1, 1), bool)
    for i, region in enumerate(reference.regions_of(grid)):
        reference.flat(out)[:, region.tokens] = chosen[:, i, None, None, None]
    return out[..., 0, 0]


def _permuted(backend: Backend, case: Case, x: Array, grid: Grid, order: NumpyArray) -> Array:
    return from_numpy(permute_regions(to_numpy(x), grid, order), home_of(backend), case.dtype)


def fill_key_region(backend: Backend, case: Case, x: Array, region: int, value: float) -> Array:
    """A copy of ``x (N, *kv_spatial, M, D)`` with ``value`` in all tokens of a region."""
    out = np.array(to_numpy(x), order="C")
    reference.flat(out)[:, reference.regions_of(case.k_grid)[region].tokens] = value
    return from_numpy(out, home_of(backend), case.dtype)


def _routed(case: Case, exact: Inputs, index: NumpyArray) -> NumpyArray:
    routed = Routed(index, case.q_grid, case.k_grid, case.factor)
    return reference.routed_attention(*exact, routed)


def _bound(case: Case, exact: Inputs, out: NumpyArray) -> NumpyArray:
    bound = attention_bound(*exact, case.factor, case.dtype, case.keys)
    return bound + rounding_bound(out, case.dtype)
