"""Properties of partition, merge, summarize, gather and key_mask.

A property is a function of a backend and a case that raises an AssertionError where it fails.
"""

from __future__ import annotations

import numpy as np

from bilevel import ops
from bilevel.protocol import Array, Backend
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same
from bilevel.testing.bounds import summary_bound
from bilevel.testing.strategies import Case, inputs


def merge_inverts_partition(backend: Backend, case: Case) -> None:
    """merge(partition(x)) is x, bit for bit."""
    x = inputs(backend, case).q
    regions = ops.partition(x, case.q_grid, backend=backend)
    assert_same("merge(partition(x))", ops.merge(regions, case.q_grid, backend=backend), x)


def partition_follows_the_definition(backend: Backend, case: Case) -> None:
    """Token t of region i on an axis of n is number i * n // s + t; padding is zero."""
    q, k, _ = inputs(backend, case)
    for x, grid in ((q, case.q_grid), (k, case.k_grid)):
        got = ops.partition(x, grid, backend=backend)
        assert_same(f"partition of {grid}", got, reference.partitioned(to_numpy(x), grid))


def summarize_is_the_mean_of_real_tokens(backend: Backend, case: Case) -> None:
    """The mean of each region's tokens; padding does not count."""
    q, k, _ = inputs(backend, case)
    for x, grid in ((q, case.q_grid), (k, case.k_grid)):
        exact = to_numpy(x)
        got = ops.summarize(x, grid, backend=backend)
        bound = summary_bound(exact, grid, case.dtype)
        assert_close(f"means of {grid}", got, reference.means(exact, grid), bound)


def gather_takes_the_routed_regions(backend: Backend, case: Case) -> None:
    """Row (n, i) holds the regions index[n, i] of image n, in that order."""
    x = ops.partition(inputs(backend, case).v, case.k_grid, backend=backend)
    exact = to_numpy(x)
    t, m, d = exact.shape[2:]
    for dtype in ("int32", "int64"):
        rows = any_index(case)
        want = np.zeros((*rows.shape[:2], case.topk * t, m, d))
        for image, i, j in np.ndindex(rows.shape):
            want[image, i, j * t : (j + 1) * t] = exact[image, rows[image, i, j]]
        index = from_numpy(rows, home_of(backend), dtype)
        assert_same(f"gather by {dtype}", ops.gather(x, index, backend=backend), want)


def key_mask_marks_real_tokens(backend: Backend, case: Case) -> None:
    """True where gather returns a token, False where it returns padding."""
    rows = any_index(case)
    want = reference.token_mask(case.k_grid)[rows].reshape(*rows.shape[:2], case.keys)
    index = from_numpy(rows, home_of(backend))
    assert_same("key_mask", ops.key_mask(index, case.k_grid, backend=backend), want)


def any_index(case: Case) -> NumpyArray:
    """Key regions ``(N, R, k)``, repeats included."""
    shape = (case.batch, case.q_grid.num_regions, case.topk)
    return case.rng().integers(0, case.k_grid.num_regions, shape)


def any_routes(backend: Backend, case: Case) -> Array:
    """Distinct key regions ``(N, R, k)`` that have nothing to do with the tokens."""
    shape = (case.batch, case.q_grid.num_regions, case.k_grid.num_regions)
    return from_numpy(case.rng().random(shape).argsort(-1)[..., : case.topk], home_of(backend))


def routes_past_one_region(case: Case) -> tuple[int, np.ndarray]:
    """A key region, and routes ``(N, R, <= k)`` to the others (to itself where it is alone)."""
    rng, count = case.rng(), case.k_grid.num_regions
    region = int(rng.integers(count))
    others = np.delete(np.arange(count), region) if count > 1 else np.arange(1)
    shape = (case.batch, case.q_grid.num_regions, len(others))
    return region, others[rng.random(shape).argsort(-1)[..., : case.topk]]
