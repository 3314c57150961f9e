"""Properties of gradients, for backends that work on torch tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel.protocol import Array, Backend
from bilevel.testing import reference
from bilevel.testing.arrays import contiguous_copy, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_same, expect
from bilevel.testing.bra import call, call_with_routes, fill_key_region
from bilevel.testing.regions import any_routes, routes_past_one_region
from bilevel.testing.strategies import Case, Inputs, inputs


def gradients_match_finite_differences(backend: Backend, case: Case) -> None:
    """In float64 under given routes, for q, k and v; ragged, crossed, Dv != D."""
    from torch.autograd.gradcheck import GradcheckError, gradcheck

    # Among flat scores the differences are exact to the tolerances of gradcheck; N = 0 has none.
    case = replace(case, dtype="float64", spread=1.0, batch=max(case.batch, 1))
    routes = any_routes(backend, case)

    def attention(*arrays: Array) -> Array:
        return call(backend, case, Inputs(*arrays), routes=routes)

    leaves = [x.detach().clone().requires_grad_() for x in inputs(backend, case)]
    try:
        gradcheck(attention, leaves, fast_mode=True)
    except GradcheckError as error:
        raise AssertionError(f"expected gradients to match differences: {error}") from error


def no_gradient_flows_through_routing(backend: Backend, case: Case) -> None:
    """Gradients are those of the same call with its routes given."""
    leaves = Inputs(*(x.detach().clone().requires_grad_() for x in inputs(backend, case)))
    _, routes = call_with_routes(backend, case, leaves)
    score: Array = routes.score
    expect(not score.requires_grad, "expected scores that carry no gradient")
    _assert_same_gradients(
        "the gradient of {} with its routes given",
        _gradients(backend, case, inputs(backend, case), routes.index),
        _gradients(backend, case, inputs(backend, case), None),
    )


def same_call_gives_the_same_gradients(backend: Backend, case: Case) -> None:
    """Backward as forward: the same bits each time."""
    first, second = (_gradients(backend, case, inputs(backend, case), None) for _ in range(2))
    _assert_same_gradients("the gradient of {}, the second time,", second, first)


def gradients_pass_by_what_nobody_attends_to(backend: Backend, case: Case) -> None:
    """A region without a route has no gradient, and gives none even where it holds NaN; neither
    does padding."""
    q, k, v = arrays = Inputs(*map(contiguous_copy, inputs(backend, case)))
    region, others = routes_past_one_region(case)
    routes = from_numpy(others, home_of(backend))
    clean = _gradients(backend, case, arrays, routes)
    for name, gradient in zip("qkv", clean, strict=True):
        expect(bool(gradient.isfinite().all()), f"expected a finite gradient of {name}")
    tokens = reference.regions_of(case.k_grid)[region].tokens
    if case.k_grid.num_regions == 1:
        return  # it has a route
    filled = (fill_key_region(backend, case, x, region, np.nan) for x in (k, v))
    after = _gradients(backend, case, Inputs(q, *filled), routes)
    _assert_same_gradients("the gradient of {} beside unrouted NaN", after, clean)
    for name, gradient in zip("kv", after[1:], strict=True):
        at = reference.flat(to_numpy(gradient))[:, tokens]
        expect(not at.any(), f"expected no gradient of {name} where nobody attends")


def _gradients(
    backend: Backend, case: Case, arrays: Inputs, routes: Array | None
) -> tuple[Array, ...]:
    """Gradients of a fixed random sum of the output."""
    from torch.autograd import grad

    leaves = Inputs(*(x.detach().clone().requires_grad_() for x in arrays))
    out = call(backend, case, leaves, routes=routes)
    weights = np.random.default_rng(case.seed + 1).standard_normal(tuple(out.shape))
    cotangent = from_numpy(weights, home_of(backend), case.dtype)
    return grad(out, leaves, cotangent)


def _assert_same_gradients(what: str, got: tuple[Array, ...], want: tuple[Array, ...]) -> None:
    for name, a, b in zip("qkv", got, want, strict=True):
        assert_same(what.format(name), a, b)
