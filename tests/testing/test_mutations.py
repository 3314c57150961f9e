"""Each property fails where the implementation is broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bilevel import Backend
from bilevel.testing import cases
from tests.backends.properties import OF_TORCH
from tests.testing.mutations import MUTATIONS, Mutation

BY_NAME = {check.__name__: check for check in OF_TORCH}

MUTANTS = [
    pytest.param(library, mutation, names, id=f"{library}-{mutation.__name__}")
    for mutation, libraries, names in MUTATIONS
    for library in libraries
]


@pytest.mark.parametrize(("backend", "mutation", "names"), MUTANTS, indirect=["backend"])
def test_properties_fail(backend: Backend, mutation: Mutation, names: tuple[str, ...]) -> None:
    # A mutation breaks a primitive; what is fused would hide it.
    broken = mutation(replace(backend, bra=None, bra_routes=None))
    hold = [name for name in names if holds(name, broken, backend)]
    assert hold == []


def holds(name: str, broken: Backend, backend: Backend) -> bool:
    """Whether a property does not notice what is broken, on cases that ``backend`` takes."""

    # The same examples each time, and none made smaller: the first failure is the answer.
    @settings(
        max_examples=150,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        BY_NAME[name](broken, data.draw(cases(backend), label="case"))

    try:
        run()
    except AssertionError:
        return False
    return True


def test_every_property_is_shown_to_fail() -> None:
    assert {name for _, _, names in MUTATIONS for name in names} == BY_NAME.keys()
