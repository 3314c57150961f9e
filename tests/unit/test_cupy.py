"""The host side of the CuPy backend, on libraries that need no GPU."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import Property, cases, properties_of
from portable import STRICT, bound_to

NUMPY = bound_to("numpy")

# What NumPy says of NaN and of infinity, which a GPU says nothing of.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

few = settings(max_examples=max(1, settings().max_examples // 3))


@pytest.mark.parametrize("check", properties_of(NUMPY), ids=lambda check: check.__name__)
@few
@given(data=st.data())
def test_property_on_numpy(check: Property, data: st.DataObject) -> None:
    check(NUMPY, data.draw(cases(NUMPY), label="case"))


@pytest.mark.parametrize("check", properties_of(STRICT), ids=lambda check: check.__name__)
@settings(few, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_property_by_the_standard_alone(
    strict: Backend, check: Property, data: st.DataObject
) -> None:
    check(strict, data.draw(cases(strict), label="case"))
