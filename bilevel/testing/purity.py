"""Properties that make the operator a pure function: of its values, and of nothing else."""

from __future__ import annotations

from bilevel import ops
from bilevel.protocol import Array, Backend
from bilevel.registry import describe
from bilevel.testing.arrays import contiguous_copy, from_numpy, home_of, to_numpy
from bilevel.testing.asserts import assert_close, assert_same, assert_shape, expect
from bilevel.testing.attention import any_regions
from bilevel.testing.bounds import accumulator, attention_bound, rounding_bound
from bilevel.testing.bra import call, call_with_routes
from bilevel.testing.regions import any_routes
from bilevel.testing.strategies import Case, Inputs, inputs


def inputs_are_unchanged(backend: Backend, case: Case) -> None:
    """bra and attend leave their arguments as they were."""
    arrays = Inputs(*map(contiguous_copy, inputs(backend, case)))
    routes = contiguous_copy(any_routes(backend, case))
    home = home_of(backend)
    q, k, v, mask = any_regions(backend, case)
    regions = [contiguous_copy(from_numpy(x, home, case.dtype)) for x in (q, k, v)]
    regions.append(contiguous_copy(from_numpy(mask, home)))
    everything = [*arrays, routes, *regions]
    before = [(to_numpy(x).copy(), _version(x)) for x in everything]
    call(backend, case, arrays)
    call(backend, case, arrays, routes=routes)
    ops.attend(*regions[:3], mask=regions[3], scale=case.scale, backend=backend)
    for x, (values, version) in zip(everything, before, strict=True):
        assert_same("an argument after the call", x, values)
        expect(_version(x) == version, "expected no write to an argument, got one")


def _version(x: Array) -> int:
    """How often a torch tensor was written to; arrays of other libraries do not count."""
    return int(getattr(x, "_version", 0))


def same_call_gives_the_same_bits(backend: Backend, case: Case) -> None:
    """No random order of sums, nothing remembered from call to call."""
    arrays = inputs(backend, case)
    out, routes = call_with_routes(backend, case, arrays)
    again, routes_again = call_with_routes(backend, case, arrays)
    assert_same("out, the second time,", again, out)
    assert_same("routes, the second time,", routes_again.index, routes.index)
    assert_same("scores, the second time,", routes_again.score, routes.score)


def views_give_what_copies_give(backend: Backend, case: Case) -> None:
    """Strided views of a projection and contiguous copies of them are the same input."""
    arrays = inputs(backend, case)
    copies = Inputs(*map(contiguous_copy, arrays))
    routes = any_routes(backend, case)
    want = to_numpy(call(backend, case, copies, routes=routes))
    exact = Inputs(*map(to_numpy, arrays))
    bound = attention_bound(*exact, case.factor, case.dtype, case.keys)
    near = 2 * (bound + rounding_bound(want, case.dtype))
    assert_close("bra of views", call(backend, case, arrays, routes=routes), want, near)
    for x, copy in zip(arrays, copies, strict=True):
        grid = case.q_grid if x is arrays.q else case.k_grid
        got, want = (ops.partition(y, grid, backend=backend) for y in (x, copy))
        assert_same("partition of a view", got, want)


def results_are_of_the_kind_promised(backend: Backend, case: Case) -> None:
    """Shapes, library, device and dtypes: out like the input, means, scores and lse wide."""
    q, k, _ = arrays = inputs(backend, case)
    n, r, wide = case.batch, case.q_grid.num_regions, accumulator(case.dtype)
    out, routes = call_with_routes(backend, case, arrays)
    _kind(backend, "out", out, (n, *case.spatial, case.heads, case.value_dim), case.dtype)
    _kind(backend, "score", routes.score, (n, r, case.topk), wide)
    assert_shape("index", routes.index, (n, r, case.topk))
    expect("int" in describe(routes.index).dtype, "expected routes to be integers")
    mean = ops.summarize(q, case.q_grid, backend=backend)
    _kind(backend, "means", mean, (n, r, case.heads * case.head_dim), wide)
    regions = ops.partition(k, case.k_grid, backend=backend)
    _kind(backend, "partition", regions, _region_shape(case), case.dtype)
    _kind(backend, "merge", ops.merge(regions, case.k_grid, backend=backend), k.shape, case.dtype)
    gathered = ops.gather(regions, routes.index, backend=backend)
    rows = (n, r, case.keys)
    _kind(backend, "gather", gathered, (*rows, case.heads, case.head_dim), case.dtype)
    mask = ops.key_mask(routes.index, case.k_grid, backend=backend)
    _kind(backend, "key_mask", mask, rows, "bool")
    q_regions = ops.partition(q, case.q_grid, backend=backend)
    attended = ops.attend(q_regions, gathered, gathered, mask=mask, backend=backend)
    _kind(backend, "attend's out", attended.out, q_regions.shape, case.dtype)
    _kind(backend, "lse", attended.lse, tuple(q_regions.shape[:4]), wide)


def _region_shape(case: Case) -> tuple[int, ...]:
    grid = case.k_grid
    return (case.batch, grid.num_regions, grid.region_tokens, case.heads, case.head_dim)


def _kind(backend: Backend, what: str, x: Array, shape: tuple[int, ...], dtype: str) -> None:
    assert_shape(what, x, tuple(shape))
    got, want = describe(x)[:3], (*home_of(backend), dtype)
    expect(got == want, f"expected {what} of library, device and dtype {want}, got {got}")
