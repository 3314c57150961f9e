"""That routing happens is checked: the kit finds those that do not route, and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bilevel import Backend
from bilevel.testing import PROPERTIES, check_backend, check_property
from tests.testing.impostors import IMPOSTORS, dense_in_the_fused, fused
from tests.testing.mutations import Mutation

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "torch"], indirect=True)
BY_NAME = {check.__name__: check for check in PROPERTIES}


def composed(backend: Backend) -> Backend:
    """Without fused functions, but for those that an impostor brings."""
    return replace(backend, bra=None, bra_routes=None)


@BACKENDS
@pytest.mark.parametrize("impostor", IMPOSTORS, ids=lambda impostor: impostor.__name__)
def test_fitting_properties_fail(backend: Backend, impostor: Mutation) -> None:
    for name in IMPOSTORS[impostor]:
        said = rf"'{backend.name}': {name}: .*\n  Case\(spatial="
        with pytest.raises(AssertionError, match=said):
            check_property(impostor(composed(backend)), BY_NAME[name])


@pytest.mark.parametrize("backend", ["numpy"], indirect=True)
def test_all_that_fails_is_named(backend: Backend) -> None:
    with pytest.raises(AssertionError) as caught:
        check_backend(dense_in_the_fused(backend), examples=10)
    count, *failures = str(caught.value).split("\n\n")
    assert count.startswith(f"backend 'numpy': {len(failures)} of ")
    names = {failure.partition(":")[0] for failure in failures}
    assert {"given_routes_are_used", *IMPOSTORS[dense_in_the_fused]} <= names
    assert "gather_takes_the_routed_regions" not in names  # the primitives are right


@BACKENDS
def test_who_fuses_and_routes_is_none(backend: Backend) -> None:
    check_backend(fused(composed(backend)), examples=10)
