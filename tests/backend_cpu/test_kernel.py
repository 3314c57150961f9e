"""The kernel itself: vectors of every width, threads, memory, routes that do not exist."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bilevel
from bilevel import Backend, registry
from bilevel.testing import Case, cases, inputs
from bilevel_cpu import call, numpy_backend, threads
from bilevel_cpu.call import Team
from tests.frameworks import load_or_skip

TEAMS = (Team(1, None), Team(2, None), Team(5, None), Team(64, None))
"""Of as many threads as heads of images or fewer, and of more: work is split in another way."""

SHAPES = {
    "four tokens": ((14, 14), 7, 16),
    "less than four tokens": ((5, 7), 4, 3),
    "one token": ((3, 4), (3, 4), 5),
    "many tokens": ((20, 23), 2, 3),
    "a region of all": ((9, 11), 1, 1),
    "one axis": ((150,), 2, 2),
    "three axes": ((4, 5, 9), (2, 2, 3), 6),
}


@pytest.fixture
def backend() -> Backend:
    return load_or_skip("cpu-numpy")


def arrays(spatial: tuple[int, ...], dtype: str = "float32", channels: int = 32) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, *spatial, 2, channels)).astype(dtype) for _ in "qkv"]


def everything(qkv: list[Any], **how: Any) -> list[Any]:
    """Output, routes, their scores and all gradients."""
    out, routes = bilevel.bra(*qkv, **how, return_routes=True)
    _, pullback = bilevel.bra_vjp(*qkv, **how)
    return [out, routes.index, routes.score, *pullback(np.cos(out))]


@pytest.mark.usefixtures("of_each_width")
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [3, 32])
def test_vectors_of_every_width(name: str, dtype: str, channels: int, backend: Backend) -> None:
    spatial, regions, topk = SHAPES[name]
    qkv = arrays(spatial, dtype, channels)
    how: dict[str, Any] = {"regions": regions, "topk": topk}
    exact = everything([x.astype("float64") for x in qkv], **how, backend="numpy")
    how["routes"] = exact[1]
    found = everything(qkv, **how, backend=backend)
    del found[2], exact[2]
    bound = 2e-5 if dtype == "float32" else 1e-13
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(
    name: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LEAST", 1)
    spatial, regions, topk = SHAPES[name]
    found = []
    for team in TEAMS:
        monkeypatch.setattr(numpy_backend, "_team", lambda team=team: team)
        found.append(everything(arrays(spatial), regions=regions, topk=topk, backend=backend))
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)


def in_the_midst(x: Any, margin: int = 40) -> tuple[Any, Any]:
    """A copy of ``x`` with NaN before and after it in memory, and all of that memory."""
    memory = np.full(x.size + 2 * margin, np.nan, x.dtype)
    inner = memory[margin : margin + x.size].reshape(x.shape)
    inner[...] = x
    return inner, memory


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_it_reads_and_writes_nothing_beside_its_arrays(
    data: st.DataObject, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = data.draw(cases(backend), label="case")
    surrounded: list[tuple[Any, Any]] = []

    def empty(shape: Any, dtype: Any) -> Any:
        surrounded.append(in_the_midst(np.zeros(shape, dtype)))
        return surrounded[-1][0]

    qkv = [in_the_midst(x)[0] for x in inputs(backend, case)]
    how = {
        "regions": case.regions,
        "kv_regions": case.kv_regions,
        "scale": case.scale,
        "routes": bilevel.bra(
            *qkv,
            topk=case.topk,
            regions=case.regions,
            kv_regions=case.kv_regions,
            return_routes=True,
            backend="numpy",
        )[1].index,
    }
    expected = everything(qkv, **how, backend=backend)
    with monkeypatch.context() as patched:
        patched.setattr(np, "empty", empty)
        found = everything(qkv, **how, backend=backend)
    for x, y in zip(found, expected, strict=True):
        if x is not None:  # as the scores of routes that are given
            np.testing.assert_array_equal(x, y)
    for inner, memory in surrounded:
        assert np.isnan(memory[:40]).all()
        assert np.isnan(memory[40 + inner.size :]).all()


def test_a_hub_that_all_regions_attend_to(backend: Backend) -> None:
    qkv = arrays((16, 16), "float64")
    routes = np.broadcast_to(np.array([5, 3]), (2, 16, 2))
    found = everything(qkv, regions=4, routes=routes, backend=backend)
    expected = everything(qkv, regions=4, routes=routes, backend="numpy")
    for x, y in zip(found[3:], expected[3:], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("wrong", [-1, 16, 2**40])
def test_routes_that_do_not_exist_are_an_error(wrong: int) -> None:
    """Also where no caller has checked them, as in what torch.compile runs."""
    import torch

    load_or_skip("cpu")
    from bilevel_cpu.custom_ops import attend_routed

    x = torch.zeros(1, 8, 8, 1, 4)
    index = torch.full((1, 16, 2), wrong)
    with pytest.raises(IndexError, match="from 0 to 15"):
        attend_routed(x, x, x, index, [4, 4], [4, 4], 1.0)


def test_little_work_is_for_one_thread() -> None:
    assert threads.useful(1000, 64) == 1
    assert threads.useful(100 * threads.LEAST, 64) == 64


@pytest.mark.parametrize(
    ("setting", "threads_of_it"), [("3", 3), ("5,2", 5), ("0", None), ("many", None)]
)
def test_the_threads_of_numpy(
    setting: str, threads_of_it: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    found = threads.allowed()
    assert found == threads_of_it if threads_of_it else found >= 1


def test_torch_lends_its_threads() -> None:
    """On Linux, where its OpenMP runtime is known."""
    import sys

    load_or_skip("cpu")
    if not sys.platform.startswith("linux"):
        pytest.skip("on other systems the kernel starts threads of its own")
    assert threads.runtime_of_torch() is not None


def test_the_default_is_the_kernel(backend: Backend) -> None:
    problem = bilevel.array_checks.float_problem(q=arrays((4,))[0])
    assert registry.choose(problem).name == "cpu-numpy"
    assert registry.choose(problem._replace(axes=4)).name == "numpy"
    assert call.MAX_AXES == 3


def test_torch_counts_its_operations() -> None:
    """As those of the same products by torch's functions; backward five where forward has two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    load_or_skip("cpu")
    counts = []
    for name in ("cpu", "torch"):
        x = torch.ones(2, 14, 14, 2, 8, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            out = bilevel.bra(x, x, x, regions=2, topk=3, backend=name)
            forward = counter.get_total_flops()
            out.sum().backward()
        counts.append(forward)
        routing = 2 * 2 * 4 * 4 * 16
        attention = 2 * (2 * 2 * 196) * (3 * 49) * (8 + 8)
        assert forward == routing + attention
        if name == "cpu":
            assert counter.get_total_flops() == forward + attention * 5 // 2
    assert counts[0] == counts[1]


def test_what_is_exported_needs_no_bilevel() -> None:
    """What torch.compile makes keeps the kernel, for it runs here."""
    import torch

    from bilevel.nn import BiLevelRoutingAttention

    load_or_skip("cpu")
    layer, x = BiLevelRoutingAttention(8, 2, regions=2, topk=2).eval(), torch.ones(1, 4, 4, 8)
    program = torch.export.export(layer, (x,))
    assert not [node for node in program.graph.nodes if "bilevel" in str(node.target)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and used all the same
        traced = torch.jit.trace(layer, (x,), check_trace=False)
    assert "bilevel::" not in str(traced.inlined_graph)
    torch.testing.assert_close(program.module()(x), layer(x))
    seen: list[str] = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in module.graph.nodes)
        return module

    torch.compile(layer, backend=keep, fullgraph=True)(x)
    assert [target for target in seen if "attend_routed_on_cpu" in target]
