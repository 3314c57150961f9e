"""Each property fails where the implementation is broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import (
    EXCHANGE_PROPERTIES,
    GRADIENT_PROPERTIES,
    PROPERTIES,
    PULLBACK_PROPERTIES,
    cases,
)
from tests.testing.mutations import MUTATIONS, Mutation

ALL = (*PROPERTIES, *PULLBACK_PROPERTIES, *GRADIENT_PROPERTIES, *EXCHANGE_PROPERTIES)
BY_NAME = {check.__name__: check for check in ALL}

MUTANTS = [
    pytest.param(library, mutation, name, id=f"{library}-{mutation.__name__}-{name}")
    for mutation, libraries, names in MUTATIONS
    for library in libraries
    for name in names
]


@pytest.mark.parametrize(("backend", "mutation", "name"), MUTANTS, indirect=["backend"])
def test_property_fails(backend: Backend, mutation: Mutation, name: str) -> None:
    # A mutation breaks a primitive; what is fused would hide it.
    broken = mutation(replace(backend, bra=None, bra_routes=None))

    # The same examples each time, and none made smaller: the first failure is the answer.
    @settings(max_examples=150, derandomize=True, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        BY_NAME[name](broken, data.draw(cases(backend), label="case"))

    with pytest.raises(AssertionError):
        run()


def test_every_property_is_shown_to_fail() -> None:
    assert {name for _, _, names in MUTATIONS for name in names} == BY_NAME.keys()
