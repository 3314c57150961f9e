"""The CUDA kernels have all properties of the operator, on a CPU that runs their text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import Case, Property, cases, properties_of
from tests.backend_cupy.kernels.emulated import OF_NUMPY, OF_TORCH

THROUGH_BRA = ("agreement", "budget", "gradients", "operator", "pullbacks", "purity")
"""The modules of properties that go through the operator as a whole: those of the primitives have
their own test, without kernels."""

CHECKS = [
    pytest.param(backend, check, id=f"{backend.library}-{check.__name__}")
    for backend in (OF_NUMPY, OF_TORCH)
    for check in properties_of(backend)
    if check.__module__.rpartition(".")[-1] in THROUGH_BRA
]


def few(case: Case) -> Case:
    """With less to emulate."""
    return replace(case, batch=min(case.batch, 2), heads=min(case.heads, 2))


@pytest.mark.parametrize(("backend", "check"), CHECKS)
@settings(max_examples=max(1, settings().max_examples // 3), phases=[Phase.generate])
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, few(data.draw(cases(backend), label="case")))
