"""Backends of one library at work on the arrays of another."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import bilevel
from bilevel import Backend, BackendRefused, Grid, exchange, registry


class Shapes(NamedTuple):
    """The shapes of q, k and v, and how they split into regions."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    how: dict[str, Any]

    def arrays(self, dtype: Any = np.float64) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.standard_normal(shape).astype(dtype) for shape in self[:3]]


def square(*shape: int, **how: Any) -> Shapes:
    return Shapes(shape, shape, shape, how)


ROUTES = np.array([[[0, 3], [2, 1], [1, 0], [3, 2]]])
CASES = {
    "uniform": square(2, 4, 4, 2, 3, topk=2, regions=2),
    "ragged": square(1, 5, 3, 2, 3, topk=3, regions=(3, 2)),
    "crossed": Shapes((2, 6, 2, 3), (2, 5, 2, 3), (2, 5, 2, 3), {"topk": 1, "regions": 2}),
    "other values": Shapes((1, 4, 2, 3), (1, 4, 2, 3), (1, 4, 2, 5), {"topk": 1, "regions": 2}),
    "given routes": square(1, 5, 4, 1, 2, regions=2, routes=ROUTES),
    "no image": square(0, 4, 4, 2, 3, topk=2, regions=2),
}
GRID = Grid((4, 4), 2)


def same_but_for_rounding(got: np.ndarray, want: np.ndarray, rtol: float) -> None:
    """Of one shape and dtype too, which assert_allclose knows of from NumPy 2 on."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-12)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Shapes:
    return CASES[request.param]


def in_torch(torch: ModuleType, how: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, its routes as a tensor."""
    return {k: torch.from_numpy(x) if k == "routes" else x for k, x in how.items()}


def leaves(torch: ModuleType, case: Shapes) -> list[Any]:
    return [torch.from_numpy(x).requires_grad_() for x in case.arrays()]


class Seen(NamedTuple):
    """A backend that records the arrays it gets."""

    backend: Backend
    arrays: list[Any]


def recording(name: str) -> Seen:
    backend = registry.load(name)
    seen: list[Any] = []

    def recorded(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            parts = [part for x in arguments for part in (x if isinstance(x, tuple) else (x,))]
            seen.extend(x for x in parts if hasattr(x, "dtype"))
            return function(*arguments)

        return call

    fields = ("partition", "merge", "summarize", "gather", "attend", "bra", "bra_vjp", "bra_routes")
    found = {f: getattr(backend, f) for f in fields}
    wrapped = {f: recorded(function) for f, function in found.items() if function is not None}
    return Seen(replace(backend, **wrapped), seen)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_on_tensors(torch: ModuleType, case: Shapes, dtype: str) -> None:
    arrays, how = case.arrays(dtype), in_torch(torch, case.how)
    out, routes = bilevel.bra(
        *map(torch.from_numpy, arrays), **how, backend="numpy", return_routes=True
    )
    want, index = bilevel.bra(*arrays, **case.how, backend="numpy", return_routes=True)
    assert isinstance(out, torch.Tensor)
    assert isinstance(routes.index, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), want, strict=True)
    np.testing.assert_array_equal(routes.index.numpy(), index.index, strict=True)
    assert (routes.score is None) == ("routes" in how)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_torch_on_numpy_arrays(torch: ModuleType, case: Shapes, dtype: str) -> None:
    arrays, how = case.arrays(dtype), in_torch(torch, case.how)
    out, routes = bilevel.bra(*arrays, **case.how, backend="torch", return_routes=True)
    tensors = map(torch.from_numpy, arrays)
    want, index = bilevel.bra(*tensors, **how, backend="torch", return_routes=True)
    assert isinstance(routes.index, np.ndarray)
    np.testing.assert_array_equal(out, want.numpy(), strict=True)
    np.testing.assert_array_equal(routes.index, index.index.numpy(), strict=True)
    assert out.flags.writeable


def test_a_foreign_backend_sees_the_memory_of_the_caller(torch: ModuleType) -> None:
    arrays = CASES["uniform"].arrays()
    tensors = [torch.from_numpy(x) for x in arrays]
    numpy, foreign = recording("numpy"), recording("torch")
    routes = ROUTES.repeat(2, axis=0)
    bilevel.bra(*tensors, regions=2, routes=torch.from_numpy(routes), backend=numpy.backend)
    bilevel.bra(*arrays, regions=2, routes=routes, backend=foreign.backend)
    memory = {x.ctypes.data for x in (*arrays, routes)}
    assert memory <= {x.ctypes.data for x in numpy.arrays}
    assert memory == {x.data_ptr() for x in foreign.arrays}
    assert all(isinstance(x, np.ndarray) for x in numpy.arrays)
    assert all(isinstance(x, torch.Tensor) for x in foreign.arrays)


def test_views_go_as_they_are(torch: ModuleType) -> None:
    """Of a fused projection, say; read-only ones too, which nobody writes to."""
    fused = np.random.default_rng(0).standard_normal((1, 4, 4, 18))
    fused.flags.writeable = False
    views = [fused[..., i : i + 6].reshape(1, 4, 4, 2, 3) for i in (0, 6, 12)]
    foreign = recording("torch")
    before = fused.copy()
    bilevel.bra(*views, regions=2, topk=2, backend=foreign.backend)
    assert {x.ctypes.data for x in views} <= {x.data_ptr() for x in foreign.arrays}
    out, pullback = bilevel.bra_vjp(*views, regions=2, topk=2, backend="torch")
    pullback(np.ones_like(out))
    np.testing.assert_array_equal(fused, before)
    tensors = torch.from_numpy(before).view(1, 4, 4, 3, 2, 3).unbind(3)
    tensor = bilevel.bra(*tensors, regions=2, topk=2, backend="numpy")
    expected = bilevel.bra(*views, regions=2, topk=2, backend="numpy")
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::-1],
        lambda x: x[..., ::-1],
        lambda x: x.swapaxes(1, 2),
        lambda x: x[:, ::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.view([("real", "f4"), ("more", "f4"), ("tail", "f8")])["tail"],
    ],
    ids=["reversed axis", "reversed channels", "transposed", "strided", "broadcast", "of records"],
)
def test_any_strides(torch: ModuleType, view: Any) -> None:
    """Those that torch has none of are copied."""
    x = view(np.random.default_rng(0).standard_normal((2, 8, 8, 2, 4)))
    how: dict[str, Any] = {"regions": 2, "topk": 2}
    expected = bilevel.bra(x, x, x, **how)
    np.testing.assert_allclose(bilevel.bra(x, x, x, **how, backend="torch"), expected, rtol=1e-12)


def test_gradients_through_numpy_are_those_of_torch(torch: ModuleType, case: Shapes) -> None:
    how, found = in_torch(torch, case.how), []
    for backend in ("torch", "numpy"):
        q, k, v = leaves(torch, case)
        bilevel.bra(q, k, v, **how, backend=backend).sin().sum().backward()
        found.append([x.grad for x in (q, k, v)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name != "no image"])
def test_gradcheck_through_numpy(torch: ModuleType, name: str) -> None:
    case = CASES[name]
    q, k, v = leaves(torch, case)
    how = in_torch(torch, case.how)
    if "routes" not in how:  # fixed, for a small step could change them
        _, routes = bilevel.bra(q, k, v, **how, return_routes=True)
        how = {**how, "routes": routes.index}
    assert torch.autograd.gradcheck(
        lambda q, k, v: bilevel.bra(q, k, v, **how, backend="numpy"), (q, k, v)
    )


@pytest.mark.parametrize("needs", ["q", "k", "v"])
def test_gradients_of_one_argument_alone(torch: ModuleType, needs: str) -> None:
    case, found = CASES["ragged"], []
    for backend in ("torch", "numpy"):
        named = dict(zip("qkv", map(torch.from_numpy, case.arrays()), strict=True))
        x = named[needs].requires_grad_()
        out = bilevel.bra(**named, **case.how, backend=backend)
        found.append(torch.autograd.grad(out.sin().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_second_derivatives_through_numpy_are_an_error(torch: ModuleType) -> None:
    case = CASES["uniform"]
    q, k, v = leaves(torch, case)
    out = bilevel.bra(q, k, v, **case.how, backend="numpy")
    (d_q,) = torch.autograd.grad(out.sin().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        d_q.sum().backward()


def test_no_graph_where_torch_records_none(torch: ModuleType) -> None:
    case = CASES["uniform"]
    q, k, v = leaves(torch, case)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not bilevel.bra(q, k, v, **case.how, backend="numpy").requires_grad
    out, routes = bilevel.bra(q, k, v, **case.how, backend="numpy", return_routes=True)
    assert out.requires_grad
    assert not routes.score.requires_grad


def test_transforms_of_torch_are_refused(torch: ModuleType) -> None:
    """Their tensors have no memory of their own."""
    q = torch.ones(1, 4, 4, 2, 3)

    def loss(q: Any) -> Any:
        return bilevel.bra(q, q, q, regions=2, topk=2, backend="numpy").sum()

    for transformed in (torch.func.grad(loss), torch.func.vmap(lambda q: loss(q[None]))):
        message = "'numpy' cannot read this torch array .*, or use a backend for torch"
        with pytest.raises(BackendRefused, match=message):
            transformed(q)


def primitives(x: Any, index: Any, backend: str | None) -> list[Any]:
    """The results of all of them, on a map ``(1, 4, 4, 2, 3)``."""
    how: dict[str, Any] = {"backend": backend}
    regions = bilevel.partition(x, GRID, **how)
    mean = bilevel.summarize(x, GRID, **how)
    rows = bilevel.gather(regions, index, **how)
    mask = bilevel.key_mask(index, Grid((5, 5), 2), **how)
    out, lse = bilevel.attend(regions, rows, rows, mask=mask[..., : rows.shape[2]], **how)
    routes = bilevel.route(mean, mean, 2, **how)
    return [regions, mean, rows, mask, out, lse, *routes, bilevel.merge(out, GRID, **how)]


def test_primitives(torch: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 2, 3))
    tensor, index = torch.from_numpy(x), torch.from_numpy(ROUTES)
    expected = primitives(x, ROUTES, None)
    by_numpy = primitives(tensor, index, "numpy")
    by_torch = primitives(x, ROUTES, "torch")
    assert all(isinstance(y, torch.Tensor) for y in by_numpy)
    assert all(isinstance(y, np.ndarray) for y in by_torch)
    for want, ours, theirs in zip(expected, by_numpy, by_torch, strict=True):
        np.testing.assert_array_equal(ours.numpy(), want, strict=True)
        same_but_for_rounding(theirs, want, 1e-12)


@pytest.mark.parametrize(
    "primitive",
    [
        lambda x: bilevel.partition(x, GRID, backend="numpy"),
        lambda x: bilevel.summarize(x, GRID, backend="numpy"),
        lambda x: bilevel.merge(x.reshape(1, 4, 4, 2, 3), GRID, backend="numpy"),
        lambda x: bilevel.gather(x, x.new_zeros(1, 4, 2).long(), backend="numpy"),
        lambda x: bilevel.attend(x, x, x, backend="numpy"),
    ],
    ids=["partition", "summarize", "merge", "gather", "attend"],
)
def test_primitives_pass_no_gradients_on(torch: ModuleType, primitive: Any) -> None:
    x = torch.ones(1, 4, 4, 2, 3, requires_grad=True)
    message = "passes gradients on to another library through bra alone; detach the arrays, or let"
    with pytest.raises(BackendRefused, match=message):
        primitive(x)
    primitive(x.detach())
    with torch.no_grad():
        primitive(x)


def test_route_has_no_gradient_to_pass_on(torch: ModuleType) -> None:
    mean = torch.ones(1, 4, 3, requires_grad=True)
    assert not bilevel.route(mean, mean, 2, backend="numpy").score.requires_grad


def test_bra_vjp(torch: ModuleType, case: Shapes) -> None:
    arrays, how = case.arrays(), in_torch(torch, case.how)
    tensors = [torch.from_numpy(x) for x in arrays]
    out, pullback = bilevel.bra_vjp(*arrays, **case.how)
    expected = [out, *pullback(np.cos(out))]
    theirs, pullback = bilevel.bra_vjp(*arrays, **case.how, backend="torch")
    by_torch = [theirs, *pullback(np.cos(theirs))]
    ours, pullback = bilevel.bra_vjp(*tensors, **how, backend="numpy")
    by_numpy = [ours, *pullback(ours.cos())]
    for want, from_torch, from_numpy in zip(expected, by_torch, by_numpy, strict=True):
        assert isinstance(from_torch, np.ndarray)
        same_but_for_rounding(from_torch, want, 1e-10)
        same_but_for_rounding(from_numpy.numpy(), want, 1e-10)


def test_the_pullback_takes_gradients_in_the_library_of_the_caller(torch: ModuleType) -> None:
    x = torch.ones(1, 4, 4, 2, 3)
    out, pullback = bilevel.bra_vjp(x, x, x, regions=2, topk=2, backend="numpy")
    with pytest.raises(bilevel.ArrayError, match="to have the library of the output, torch"):
        pullback(out.numpy())


def test_an_adapted_backend_is_the_foreign_one_but_reads_our_arrays(torch: ModuleType) -> None:
    foreign, home = registry.load("numpy"), registry.load("torch")
    adapted = exchange.adapted(foreign, home)
    said = (adapted.name, adapted.library, adapted.refuses)
    assert said == (foreign.name, foreign.library, foreign.refuses)
    assert adapted.extent is home.extent


@pytest.mark.parametrize("lacks", ["numpy", "torch"])
def test_the_backend_that_exchanges_no_arrays_is_named(torch: ModuleType, lacks: str) -> None:
    foreign, home = registry.load("numpy"), registry.load("torch")
    silent = replace(registry.load(lacks), exchange=None)
    both = (silent, home) if lacks == "numpy" else (foreign, silent)
    message = f"'{lacks}' exchanges no arrays .*; convert the torch arrays to numpy first"
    with pytest.raises(BackendRefused, match=message):
        exchange.adapted(*both)
