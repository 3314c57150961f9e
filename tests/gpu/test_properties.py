"""The backends on CUDA have all properties, forward and backward, in every dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel import Backend, exchange, registry
from bilevel.protocol import Problem
from bilevel.testing import Property, cases, properties_of
from tests.frameworks import load_or_skip, skip_without_gpu

skip_without_gpu()


def on_cuda(problem: Problem) -> str | None:
    """What torch's backend takes, on CUDA alone."""
    if problem.device != "cuda":
        return "tensors on CUDA"
    return registry.load("torch").refuses(problem)


def cupy_for_torch() -> Backend:
    """CuPy's backend at work on torch tensors, gradients included."""
    crossed = exchange.resolve(Problem("torch", "cuda", "float32"), "cupy")
    return replace(crossed, library="torch", refuses=on_cuda)


BACKENDS = {
    "triton": ("triton", lambda: registry.load("triton")),
    "torch": ("torch", lambda: replace(registry.load("torch"), refuses=on_cuda)),
    "cupy": ("cupy", lambda: registry.load("cupy")),
    "cupy for torch": ("cupy", cupy_for_torch),
}
"""What each needs, and what makes it."""


def checks() -> Iterator[Any]:
    """Each property of each backend; one test that skips, with the reason, for one that is not
    there."""
    for name, (needed, make) in BACKENDS.items():
        try:
            load_or_skip(needed)
        except pytest.skip.Exception as error:
            reason = pytest.mark.skip(reason=str(error))
            yield pytest.param(None, None, id=name, marks=reason)
        else:
            backend = make()
            for check in properties_of(backend):
                yield pytest.param(backend, check, id=f"{name}-{check.__name__}")


# Each case compiles kernels for its regions.
@settings(max_examples=max(1, settings().max_examples // 3), phases=[Phase.generate])
@pytest.mark.parametrize(("made", "check"), list(checks()))
@given(data=st.data())
def test_property(made: Backend, check: Property, data: st.DataObject) -> None:
    check(made, data.draw(cases(made), label="case"))
