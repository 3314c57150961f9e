"""What check_backend says of a spec, and of what a backend refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bilevel import Backend, BackendSpec, Problem, Routes, registry
from bilevel.testing import (
    PROPERTIES,
    PULLBACK_PROPERTIES,
    check,
    check_backend,
    properties_of,
)

SPEC = registry.specs()["numpy"]


def test_a_spec_that_is_right() -> None:
    check_backend(SPEC, examples=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(SPEC, load="no_such_module:B"), "load='no_such_module:B' to name a backend"),
        (replace(SPEC, load="bilevel_numpy.backend:B"), "has no attribute 'B'"),
        (replace(SPEC, load="bilevel_numpy:SPEC"), r"to be a bilevel\.Backend, got BackendSpec"),
        (replace(SPEC, name="mine"), "to say 'mine' as its spec, got 'numpy'"),
        (replace(SPEC, library="mine"), "to say 'mine' as its spec, got 'numpy'"),
        (replace(SPEC, priority=1), "an entry point of the group bilevel.backends"),
    ],
)
def test_a_spec_that_is_wrong(spec: BackendSpec, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_backend(spec)


def test_a_distribution_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, requires="no-such-distribution")
    monkeypatch.setattr(registry, "specs", lambda: {"numpy": spec})
    with pytest.raises(AssertionError, match="requires='no-such-distribution' to be an installed"):
        check_backend(spec)


def test_a_spec_that_imports_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_AFTER_THE_SPECS", f"import numpy; {check._AFTER_THE_SPECS}")
    with pytest.raises(AssertionError, match=r"without numpy; .* in bilevel_numpy\.backend"):
        check_backend(SPEC)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("gold", "to take float32 numpy arrays on one of cpu, cuda, gpu, tpu"),
        (None, "to refuse .*'no such library'.* and say what it takes, got None"),
    ],
)
def test_what_is_refused(answer: str | None, message: str) -> None:
    backend = replace(registry.load("numpy"), refuses=lambda problem: answer)
    with pytest.raises(AssertionError, match=message):
        check_backend(backend)


def test_an_exception_is_a_failure() -> None:
    def route(*_: object) -> Routes:
        raise ZeroDivisionError("by nothing")

    backend = replace(registry.load("numpy"), route=route)
    with pytest.raises(AssertionError, match=r"raised ZeroDivisionError\('by nothing'\)"):
        check_backend(backend, examples=1)


def float32_alone(problem: Problem) -> str | None:
    takes = problem.library == "numpy" and problem.dtype in ("float32", "")
    return None if takes else "takes only float32 numpy arrays"


def names(backend: Backend) -> set[str]:
    return {each.__name__ for each in properties_of(backend)}


def test_only_what_applies_is_checked() -> None:
    numpy = registry.load("numpy")
    pullbacks = {each.__name__ for each in PULLBACK_PROPERTIES}
    bare = replace(numpy, bra_vjp=None, exchange=None)
    assert names(bare) == {each.__name__ for each in PROPERTIES}
    assert names(numpy) - names(bare) == pullbacks | {"exchanged_arrays_keep_their_bits"}
    narrow = replace(numpy, refuses=float32_alone)
    assert names(numpy) - names(narrow) == {"pullback_matches_finite_differences"}
    check_backend(narrow, examples=3)
