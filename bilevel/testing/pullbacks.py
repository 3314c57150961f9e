"""Properties of bra_vjp, for backends of any library."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel import ops, registry
from bilevel.protocol import Array, Backend, Pullback
from bilevel.testing import reference
from bilevel.testing.arrays import NumpyArray, contiguous_copy, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same, expect
from bilevel.testing.bounds import gradient_bounds, rounding_bound
from bilevel.testing.bra import call, fill_key_region
from bilevel.testing.regions import any_routes, routes_past_one_region
from bilevel.testing.strategies import Case, Inputs, inputs

FAR = 800.0
"""Of scores from zero: its exponential is infinite, in float64 too."""

STEP = 1e-5
"""Of the central differences: with scores of moderate size, 1e-10 off by curvature and rounding."""


def pullback_agrees_with_the_reference(backend: Backend, case: Case) -> None:
    """In every dtype, with the NumPy backend's in float64, under given routes."""
    case = replace(case, spread=1.0, batch=max(case.batch, 1))
    numpy, routes = registry.load("numpy"), any_routes(backend, case)
    arrays = inputs(backend, case)
    weights, got = pulled_back(backend, case, arrays, routes)
    d_out = to_numpy(from_numpy(weights, home_of(backend), case.dtype))
    exact = Inputs(*map(to_numpy, arrays))
    _, pullback = pull(numpy, case, exact, to_numpy(routes))
    bounds = gradient_bounds(*exact, d_out, case.factor, case.dtype, case.keys)
    for name, a, b, bound in zip("qkv", got, pullback(d_out), bounds, strict=True):
        assert_close(f"the gradient of {name}", a, b, bound + rounding_bound(b, case.dtype))


def pullback_of_scores_far_from_zero(backend: Backend, case: Case) -> None:
    """All scores of a row may be far below zero or far above it, where padding, whose score is
    zero, is far from them: gradients are the reference's, and finite."""
    case = replace(case, batch=max(case.batch, 1))
    numpy, routes = registry.load("numpy"), any_routes(backend, case)
    for far in (-FAR, FAR):
        q, k, v = _with_scores_near(far, backend, case)
        weights, got = pulled_back(backend, case, Inputs(q, k, v), routes)
        exact = Inputs(*map(to_numpy, (q, k, v)))
        d_out = to_numpy(from_numpy(weights, home_of(backend), case.dtype))
        _, pullback = pull(numpy, case, exact, to_numpy(routes))
        bounds = gradient_bounds(*exact, d_out, case.factor, case.dtype, case.keys)
        for name, a, b, bound in zip("qkv", got, pullback(d_out), bounds, strict=True):
            what = f"the gradient of {name} of scores near {far}"
            expect(bool(np.isfinite(to_numpy(a)).all()), f"expected {what} to be finite")
            assert_close(what, a, b, bound + rounding_bound(b, case.dtype))


def _with_scores_near(far: float, backend: Backend, case: Case) -> Inputs:
    """Queries and keys that are nearly the same everywhere, whose scores are about ``far``."""
    rng, home = case.rng(), home_of(backend)
    size = abs(far / case.factor / case.head_dim) ** 0.5
    like = inputs(backend, replace(case, spread=1.0))
    q, k = (1 + 0.01 * rng.standard_normal(tuple(x.shape)) for x in (like.q, like.k))
    q, k = size * q, size * np.sign(far * case.factor) * k
    return Inputs(from_numpy(q, home, case.dtype), from_numpy(k, home, case.dtype), like.v)


def pullback_matches_finite_differences(backend: Backend, case: Case) -> None:
    """In float64 under given routes, along random directions of q, k and v."""
    case = replace(case, dtype="float64", spread=1.0, batch=max(case.batch, 1))
    routes = any_routes(backend, case)
    arrays = inputs(backend, case)
    weights, gradients = pulled_back(backend, case, arrays, routes)
    rng = np.random.default_rng(case.seed + 2)
    for name, x, gradient in zip("qkv", arrays, gradients, strict=True):
        direction = rng.standard_normal(tuple(x.shape))
        sides = []
        for step in (STEP, -STEP):
            moved = from_numpy(to_numpy(x) + step * direction, home_of(backend))
            out = call(backend, case, arrays._replace(**{name: moved}), routes=routes)
            sides.append((to_numpy(out) * weights).sum())
        slope = (sides[0] - sides[1]) / (2 * STEP)
        got = (to_numpy(gradient) * direction).sum()
        size = 1 + abs(slope) + np.linalg.norm(to_numpy(gradient))
        expect(
            abs(got - slope) <= 1e-6 * size,
            f"expected the gradient of {name} along a direction to be {slope}, got {got}",
        )


def same_pullback_gives_the_same_bits(backend: Backend, case: Case) -> None:
    """Forward and backward, twice; inputs as they were, gradients of the kind of the inputs."""
    arrays = inputs(backend, case)
    before = [to_numpy(x).copy() for x in arrays]
    (_, first), (_, second) = (pulled_back(backend, case, arrays, None) for _ in range(2))
    for name, x, was, a, b in zip("qkv", arrays, before, first, second, strict=True):
        assert_same(f"the gradient of {name}, the second time,", b, a)
        assert_same(f"{name} after the pullback", x, was)
        expect(
            (a.dtype, tuple(a.shape)) == (x.dtype, tuple(x.shape)),
            f"expected the gradient of {name} to be {x.dtype} {tuple(x.shape)}, "
            f"got {a.dtype} {tuple(a.shape)}",
        )


def pullback_passes_by_what_nobody_attends_to(backend: Backend, case: Case) -> None:
    """A region without a route gets no gradient, and spoils none where it holds NaN."""
    case = replace(case, spread=1.0)
    q, k, v = arrays = Inputs(*map(contiguous_copy, inputs(backend, case)))
    region, others = routes_past_one_region(case)
    if case.k_grid.num_regions == 1:
        return  # it has a route
    routes = from_numpy(others, home_of(backend))
    tokens = reference.regions_of(case.k_grid)[region].tokens
    filled = (fill_key_region(backend, case, x, region, np.nan) for x in (k, v))
    _, clean = pulled_back(backend, case, arrays, routes)
    _, after = pulled_back(backend, case, Inputs(q, *filled), routes)
    for name, a, b in zip("qkv", after, clean, strict=True):
        assert_same(f"the gradient of {name} beside unrouted NaN", a, b)
        expect(bool(np.isfinite(to_numpy(a)).all()), f"expected a finite gradient of {name}")
    for name, gradient in zip("kv", after[1:], strict=True):
        at = reference.flat(to_numpy(gradient))[:, tokens]
        expect(not at.any(), f"expected no gradient of {name} where nobody attends")


def pulled_back(
    backend: Backend, case: Case, arrays: Inputs, routes: Array | None
) -> tuple[NumpyArray, tuple[Array, ...]]:
    """Random weights for the output, and the gradients of the sum that they weigh."""
    out, pullback = pull(backend, case, arrays, routes)
    weights = np.random.default_rng(case.seed + 1).standard_normal(tuple(out.shape))
    return weights, pullback(from_numpy(weights, home_of(backend), case.dtype))


def pull(
    backend: Backend, case: Case, arrays: Inputs, routes: Array | None
) -> tuple[Array, Pullback]:
    """bra_vjp on the arrays of a case."""
    return ops.bra_vjp(
        *arrays,
        topk=case.topk,
        regions=case.regions,
        kv_regions=case.kv_regions,
        scale=case.scale,
        routes=routes,
        backend=backend,
    )
