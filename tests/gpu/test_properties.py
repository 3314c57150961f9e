"""The backends on CUDA have all properties, forward and backward, in every dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel import Backend, exchange, registry
from bilevel.protocol import Problem
from bilevel.testing import Property, cases, properties_of
from tests.frameworks import load_or_skip, skip_without_gpu

skip_without_gpu()
load_or_skip("triton")
load_or_skip("cupy")


def on_cuda(problem: Problem) -> str | None:
    """What torch's backend takes, on CUDA alone."""
    if problem.device != "cuda":
        return "tensors on CUDA"
    return registry.load("torch").refuses(problem)


def cupy_for_torch() -> Backend:
    """CuPy's backend at work on torch tensors, gradients included."""
    crossed = exchange.resolve(Problem("torch", "cuda", "float32"), "cupy")
    return replace(crossed, library="torch", refuses=on_cuda)


BACKENDS = [
    registry.load("triton"),
    replace(registry.load("torch"), refuses=on_cuda),
    registry.load("cupy"),
    cupy_for_torch(),
]

CHECKS = [
    pytest.param(backend, check, id=f"{backend.name}-{backend.library}-{check.__name__}")
    for backend in BACKENDS
    for check in properties_of(backend)
]


# Each case compiles kernels for its regions.
@settings(max_examples=max(1, settings().max_examples // 3), phases=[Phase.generate])
@pytest.mark.parametrize(("backend", "check"), CHECKS)
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, data.draw(cases(backend), label="case"))
