"""torch's derivatives of bra against finite differences, on generated shapes."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bilevel
from bilevel import registry
from bilevel.testing import cases, inputs
from bilevel.testing.bra import call_with_routes

MOST = 400
"""Numbers in q, k and v, each of which costs two calls."""


@settings(max_examples=max(1, settings().max_examples // 2))
@given(data=st.data())
def test_gradcheck(torch: ModuleType, data: st.DataObject) -> None:
    backend = registry.load("torch")
    case = replace(data.draw(cases(backend), label="case"), dtype="float64", spread=1.0)
    arrays = inputs(backend, case)
    assume(0 < sum(x.numel() for x in arrays) <= MOST)
    # Given, for a small step could change them: there the function has a jump.
    _, routes = call_with_routes(backend, case, arrays)
    leaves = [x.detach().clone().requires_grad_() for x in arrays]
    assert torch.autograd.gradcheck(
        lambda q, k, v: bilevel.bra(
            q,
            k,
            v,
            regions=case.regions,
            kv_regions=case.kv_regions,
            scale=case.scale,
            routes=routes.index,
        ),
        leaves,
    )
