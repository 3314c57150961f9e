"""Properties of route."""

from __future__ import annotations

import numpy as np

from bilevel import ops
from bilevel.protocol import Backend
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_best, assert_close, assert_same
from bilevel.testing.bounds import routing_bound
from bilevel.testing.strategies import Case, inputs


def scores_are_products_of_means(backend: Backend, case: Case) -> None:
    """score[n, i, j] is the product of two means over all heads, unscaled; the best are kept."""
    q, k, _ = inputs(backend, case)
    q_mean = ops.summarize(q, case.q_grid, backend=backend)
    k_mean = ops.summarize(k, case.k_grid, backend=backend)
    index, score = ops.route(q_mean, k_mean, case.topk, backend=backend)
    exact = exact_scores(to_numpy(q_mean), to_numpy(k_mean))
    bound = routing_bound(to_numpy(q_mean), to_numpy(k_mean), case.dtype)
    assert_best("routes", index, exact, bound)
    assert_close("scores", score, np.take_along_axis(exact, to_numpy(index), -1), bound)


def best_first_and_ties_to_the_lower_region(backend: Backend, case: Case) -> None:
    """Among few small integers most scores tie, and every dtype holds them exactly."""
    q_mean, k_mean = _integer_means(case)
    exact = exact_scores(q_mean, k_mean)
    want = np.argsort(-exact, axis=-1, kind="stable")[..., : case.topk]
    home = home_of(backend)
    means = from_numpy(q_mean, home, case.dtype), from_numpy(k_mean, home, case.dtype)
    index, score = ops.route(*means, case.topk, backend=backend)
    assert_same("routes", index, want)
    # Adding zero makes every zero positive: the sign of a sum of zeros is no part of the contract.
    assert_same("scores", to_numpy(score) + 0.0, np.take_along_axis(exact, want, -1) + 0.0)


def nan_scores_come_last(backend: Backend, case: Case) -> None:
    """A NaN score counts as the lowest; regions with NaN tie."""
    q_mean, k_mean = _integer_means(case)
    k_mean[case.rng().random(k_mean.shape[:2]) < 0.3, 0] = np.nan
    q_mean[case.rng().random(q_mean.shape[:2]) < 0.2, 0] = np.nan
    exact = exact_scores(q_mean, k_mean)
    exact[np.isnan(exact)] = -np.inf
    home = home_of(backend)
    means = from_numpy(q_mean, home, case.dtype), from_numpy(k_mean, home, case.dtype)
    index, _ = ops.route(*means, case.topk, backend=backend)
    want = np.argsort(-exact, axis=-1, kind="stable")[..., : case.topk]
    assert_same("routes around NaN", index, want)


def exact_scores(q_mean: NumpyArray, k_mean: NumpyArray) -> NumpyArray:
    """Products of means ``(N, R, Rk)`` in float64."""
    return np.einsum("nic,njc->nij", q_mean, k_mean)


def token_scores(q: NumpyArray, k: NumpyArray, case: Case) -> tuple[NumpyArray, float]:
    """Exact routing scores ``(N, R, Rk)`` of tokens, and how far a backend's may be off."""
    exact = exact_scores(reference.means(q, case.q_grid), reference.means(k, case.k_grid))
    sizes = reference.means(np.abs(q), case.q_grid), reference.means(np.abs(k), case.k_grid)
    tokens = max(case.q_grid.region_tokens, case.k_grid.region_tokens)
    return exact, routing_bound(*sizes, case.dtype, tokens)


def _integer_means(case: Case) -> tuple[NumpyArray, NumpyArray]:
    rng, channels = case.rng(), case.heads * case.head_dim
    q_mean = rng.integers(-1, 2, (case.batch, case.q_grid.num_regions, channels))
    k_mean = rng.integers(-1, 2, (case.batch, case.k_grid.num_regions, channels))
    return q_mean.astype(np.float64), k_mean.astype(np.float64)
