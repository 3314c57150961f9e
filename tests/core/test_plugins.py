"""Broken plugins: each is recorded in a row, warned of once, and stops no other backend."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from itertools import permutations
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import bilevel
from bilevel import BackendSpec, BackendUnavailable, registry

NUMPY = registry.specs()["numpy"]
BACKEND = registry.load("numpy")
OTHER = replace(NUMPY, name="other", load="other_module:B", install="pip install other", priority=9)
ERRORS = (
    SyntaxError("half a file"),
    ImportError("no such thing"),
    ModuleNotFoundError("no such module"),
    RuntimeError("two\nlines"),
    OSError(28, "No space left on device"),
    MemoryError(),
    AttributeError("x"),
    SystemExit(3),
    GeneratorExit(),
    type("Rude", (BaseException,), {})(),
    type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})(),
)


class Point(NamedTuple):
    """An entry point, and what loading it gives or raises."""

    name: str
    value: str
    loads: Any
    dist: Any = None

    def load(self) -> Any:
        if isinstance(self.loads, BaseException):
            raise self.loads
        return self.loads


@pytest.fixture
def put(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``put(*points)`` puts them beside NumPy's own."""
    install()

    def place(*points: Point) -> None:
        ours = Point("numpy", NUMPY.load, NUMPY, SimpleNamespace(name="bilevel"))
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: [*points, ours])
        registry.forget()

    return place


def call(**more: Any) -> None:
    x = np.ones((1, 4, 2, 3), np.float32)
    assert bilevel.bra(x, x, x, topk=1, regions=2, **more).shape == x.shape


def row(name: str) -> bilevel.BackendStatus:
    [found] = [status for status in bilevel.backends() if status.name == name]
    return found


def go_on_without(name: str, reason: str) -> None:
    """Calls go on, one warning is given, the row says why, asking by name raises."""
    with pytest.warns(RuntimeWarning, match=f"backend {name!r} .*{reason}") as warned:
        call()
    assert len(warned) == 1
    call()
    call(backend="numpy")
    assert row("numpy").why_not is None
    why_not = row(name).why_not or ""
    assert re.search(reason, why_not)
    assert "\n" not in why_not
    with pytest.raises(BackendUnavailable, match=f"backend {name!r} is broken: .*{reason}"):
        call(backend=name)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_entry_point_that_does_not_load(put: Callable[..., None], error: BaseException) -> None:
    put(Point("bad", "bad:SPEC", error))
    go_on_without("bad", f"does not load .{type(error).__name__}")


@pytest.mark.parametrize("loads", [None, 3, "numpy", {}, BackendSpec, sys])
def test_what_is_no_spec(put: Callable[..., None], loads: object) -> None:
    put(Point("bad", "bad:SPEC", loads))
    go_on_without("bad", f"is no BackendSpec, but of the type {type(loads).__name__}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, wrong) for name in ("name", "library", "install", "load") for wrong in (None, "")],
        *[("name", wrong) for wrong in (3, b"x", ["x"])],
        *[("requires", wrong) for wrong in (None, "", 3, (None,), ("",))],
        *[(name, wrong) for name in ("devices", "modules") for wrong in (None, "cuda", (3,))],
        *[("priority", wrong) for wrong in (None, "high", 1.5)],
    ],
)
def test_a_spec_with_a_wrong_field(put: Callable[..., None], field: str, value: Any) -> None:
    put(Point("bad", "bad:SPEC", replace(OTHER, **{field: value})))
    go_on_without("bad", f"has {field}=")


@pytest.mark.parametrize("load", ["module", ":B", "module:"])
def test_a_spec_that_says_not_where_its_backend_is(put: Callable[..., None], load: str) -> None:
    put(Point("bad", "bad:SPEC", replace(OTHER, load=load)))
    go_on_without("bad", "expected 'module:attribute'")


class Raises(ModuleType):
    """A module whose attributes raise, as one does that is imported at last."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("other_module")
        self.__dict__["error"] = error

    def __getattr__(self, name: str) -> Any:
        raise self.__dict__["error"]


@pytest.mark.parametrize(
    "error", [e for e in ERRORS if not isinstance(e, ImportError)], ids=lambda e: type(e).__name__
)
def test_a_backend_whose_module_raises(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setitem(sys.modules, "other_module", Raises(error))
    put(Point("other", "other:SPEC", OTHER))
    go_on_without("other", f"does not load .{type(error).__name__}")


@pytest.mark.parametrize("value", [None, 3, NUMPY, "numpy"])
def test_what_is_no_backend(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setitem(sys.modules, "other_module", SimpleNamespace(B=value))
    put(Point("other", "other:SPEC", OTHER))
    go_on_without("other", f"is no Backend, but of the type {type(value).__name__}")


def test_a_backend_without_its_attribute(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "other_module", SimpleNamespace())
    put(Point("other", "other:SPEC", OTHER))
    go_on_without("other", "does not load .AttributeError")


def test_a_backend_for_another_library_than_its_spec(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(BACKEND, name="other", library="gold")
    monkeypatch.setitem(sys.modules, "other_module", SimpleNamespace(B=wrong))
    put(Point("other", "other:SPEC", OTHER))
    go_on_without("other", "its spec is for numpy, its Backend for gold")


@pytest.mark.parametrize("answer", [False, True, 0, b"no", *ERRORS[:8]], ids=repr)
def test_refusals_that_fail(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    def refuses(problem: bilevel.Problem) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    wrong = replace(BACKEND, name="other", refuses=refuses)
    monkeypatch.setitem(sys.modules, "other_module", SimpleNamespace(B=wrong))
    put(Point("other", "other:SPEC", OTHER))
    fails = isinstance(answer, BaseException)
    go_on_without("other", f"raises {type(answer).__name__}" if fails else "expected None or a str")


def test_an_interrupt_is_no_fault_of_a_plugin(put: Callable[..., None]) -> None:
    put(Point("bad", "bad:SPEC", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bilevel.backends()


def test_of_one_name_ours_is_taken_and_else_the_first(put: Callable[..., None]) -> None:
    """In every order in which the entry points are found, and by whatever name."""
    thief = Point("a", "a:SPEC", replace(OTHER, name="numpy", load="thief:B"))
    twins = [Point(n, f"{n}:SPEC", replace(OTHER, name="twin", load=f"{n}:B")) for n in "bcd"]
    for points in permutations([thief, *twins]):
        put(*points)
        with pytest.warns(RuntimeWarning) as warned:
            call(backend="numpy")
        assert len(warned) == 3
        assert registry.specs()["numpy"] == NUMPY
        assert registry.specs()["twin"].load == "b:B"
        said = [(each.name, each.why_not) for each in bilevel.backends()]
        assert said == [
            ("numpy", None),
            ("numpy", f"another backend has this name: {NUMPY.load} is taken, not thief:B"),
            ("twin", None),
            ("twin", "another backend has this name: b:B is taken, not c:B"),
            ("twin", "another backend has this name: b:B is taken, not d:B"),
        ]


def test_many_broken_ones_at_once(put: Callable[..., None]) -> None:
    put(*[Point(f"bad{i}", "bad:SPEC", error) for i, error in enumerate(ERRORS)])
    with pytest.warns(RuntimeWarning) as warned:
        call()
    assert len(warned) == len(ERRORS)
    assert sum(status.why_not is None for status in bilevel.backends()) == 1


def test_a_module_that_is_missing_beside_the_library(install: Callable[..., None]) -> None:
    missing = ("no_such_module", "no.such.module", "json")
    install(
        *[replace(OTHER, name=f"x{i}", modules=("json", name)) for i, name in enumerate(missing)]
    )
    why_not = [status.why_not for status in bilevel.backends()]
    assert why_not == [f"{missing[0]} is not installed", f"{missing[1]} is not installed", None]


@pytest.mark.parametrize(
    ("programs", "ready"),
    [
        (("no-such-program", sys.executable), True),
        ((sys.executable, "no-such-program"), True),
        (("no-such-program", "neither-this"), False),
        (("$BILEVEL_TEST_PROGRAM",), True),
        (("$NO_SUCH_VARIABLE", "no-such-program"), False),
    ],
)
def test_of_several_programs_one_is_enough(
    put: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    programs: tuple[str, ...],
    ready: bool,
) -> None:
    monkeypatch.setenv("BILEVEL_TEST_PROGRAM", f"{sys.executable} -with options")
    spec = replace(OTHER, programs=programs)
    put(Point("other", "other:SPEC", spec))
    (row,) = (row for row in bilevel.backends() if row.name == "other")
    missing = f"none of {', '.join(programs)} is there to run"
    assert row.why_not == (None if ready else missing)
