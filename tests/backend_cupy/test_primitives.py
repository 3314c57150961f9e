"""The host side of the CuPy backend, on libraries that need no GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bilevel
from bilevel import Backend, Grid
from bilevel.testing import Property, cases, properties_of
from bilevel_cupy.gathered import gather_pullback
from tests.backend_cupy.portable import STRICT, bound_to
from tests.frameworks import needs

NUMPY = bound_to("numpy")
AS_CUPY = needs("numpy", "2.1", "it lacks what CuPy has of the array API standard")

# What NumPy says of NaN and of infinity, which a GPU says nothing of.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

few = settings(max_examples=max(1, settings().max_examples // 3))


@AS_CUPY
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


@AS_CUPY
@pytest.mark.parametrize("spatial", [(8, 8), (7, 9)], ids=["uniform", "ragged"])
def test_gradients_keep_nan_where_it_belongs(spatial: tuple[int, int]) -> None:
    """The gradient of a key is NaN if, and only if, a query that has it has a NaN."""
    rng, grid = np.random.default_rng(0), Grid(spatial, 4)
    q, k, v, d_out = rng.standard_normal((4, 2, *spatial, 2, 3))
    d_out[0, 0, 0, 1] = np.nan  # of the first region of the first image, in one head
    _, pullback = bilevel.bra_vjp(q, k, v, regions=4, topk=3, backend=NUMPY)
    _, routes = bilevel.bra(q, k, v, regions=4, topk=3, backend=NUMPY, return_routes=True)
    reached = np.zeros((2, 16, grid.region_tokens, 2, 3), bool)
    reached[0, routes.index[0, 0], :, 1] = True
    d_q, d_k, d_v = pullback(d_out)
    for d in (d_k, d_v):
        np.testing.assert_array_equal(np.isnan(d), bilevel.merge(1.0 * reached, grid) == 1)
    assert np.isnan(d_q).sum() == 3


@AS_CUPY
def test_a_hub_gets_the_sum_of_all() -> None:
    """Of 50 regions that took it, in float32 as exactly as integers are."""
    index = np.ones((2, 50, 1), np.int64)
    d_rows = np.arange(2 * 50 * 4, dtype=np.float32).reshape(2, 50, 4, 1, 1)
    d_x = gather_pullback(np, d_rows, index, 3)
    np.testing.assert_array_equal(d_x[:, 1], d_rows.sum(1))
    assert not d_x[:, ::2].any()


@AS_CUPY
def test_the_most_that_pairs_may_be_off() -> None:
    """A running sum one by one would lose a share below the last bit each time."""
    d_rows = np.full((1, 2**14, 1, 1, 1), 1 + 2.0**-20, np.float32)
    d_x = gather_pullback(np, d_rows, np.zeros((1, 2**14, 1), np.int64), 1)
    assert d_x.item() == 2**14 * (1 + 2.0**-20)
