"""The Triton kernels, run by the interpreter, have all properties of the operator."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel.testing import Case, Property, cases, properties_of

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are interpreted by: TRITON_INTERPRET=1 pytest", allow_module_level=True)

from tests.backend_triton.kernels.interpreter import INTERPRETED

# What NumPy says of NaN and of infinity, which a GPU says nothing of.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

THROUGH_BRA = ("agreement", "budget", "gradients", "operator", "pullbacks", "purity")
"""The modules of properties that go through the operator as a whole: the rest is torch's."""

CHECKS = [
    check
    for check in properties_of(INTERPRETED)
    if check.__module__.rpartition(".")[-1] in THROUGH_BRA
]


def few(case: Case) -> Case:
    """With less to interpret: a program takes some hundredths of a second."""
    return replace(case, batch=min(case.batch, 2), heads=min(case.heads, 2))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@settings(max_examples=max(1, settings().max_examples // 3), phases=[Phase.generate])
@given(data=st.data())
def test_property(check: Property, data: st.DataObject) -> None:
    check(INTERPRETED, few(data.draw(cases(INTERPRETED), label="case")))
