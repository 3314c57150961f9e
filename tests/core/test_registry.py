"""From entry points to the backend that does the work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bilevel
from bilevel import Backend, BackendSpec, registry
from bilevel.protocol import Problem

PROBLEM = Problem("numpy", "cpu", "float32")


def spec(name: str, **more: Any) -> BackendSpec:
    """The spec of a backend for NumPy arrays."""
    known = {"requires": "numpy", "install": f"pip install {name}", "load": f"{name}_module:B"}
    return BackendSpec(name, "numpy", **{**known, **more})


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Backend], None]:
    """Makes ``NAME_module:B`` importable."""

    def add(name: str, backend: Backend) -> None:
        monkeypatch.setitem(sys.modules, f"{name}_module", SimpleNamespace(B=backend))

    return add


def variant(name: str, refusal: str | None = None) -> Backend:
    """The NumPy backend by another name, that takes everything or nothing."""
    return replace(registry.load("numpy"), name=name, refuses=lambda problem: refusal)


def test_ours_are_found() -> None:
    assert {"numpy", "torch"} <= {status.name for status in bilevel.backends()}


def test_a_backend_that_does_not_import(install: Callable[..., None]) -> None:
    install(spec("fast", load="bilevel_not_there:B"))
    message = r"'fast' does not import \(.*not_there.*\); install it with: pip install fast"
    with pytest.raises(bilevel.BackendUnavailable, match=message):
        registry.load("fast")


def test_no_backend_at_all(install: Callable[..., None]) -> None:
    install()
    with pytest.raises(bilevel.BackendUnavailable, match=r"one of \(none installed\), got 'numpy'"):
        registry.load("numpy")
    assert bilevel.backends() == []


def test_the_highest_priority_is_chosen(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    fast, slow = variant("fast"), variant("slow")
    module("fast", fast)
    module("slow", slow)
    install(spec("slow"), spec("fast", priority=10))
    assert registry.choose(PROBLEM) is fast
    assert registry.choose(PROBLEM, "slow") is slow


def test_a_third_party_backend_does_the_work(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    calls = []
    fast = variant("fast")

    def attend(*arguments: object) -> bilevel.Attended:
        calls.append(arguments)
        return fast.attend(*arguments)

    module("fast", replace(fast, attend=attend))
    install(spec("fast", priority=10))
    x = np.ones((1, 4, 2, 3), np.float32)
    assert bilevel.bra(x, x, x, topk=1, regions=2).shape == x.shape
    assert len(calls) == 1


def test_one_that_refuses_is_passed_over(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    slow = variant("slow")
    module("fast", variant("fast", "takes only arrays of gold"))
    module("slow", slow)
    install(spec("slow"), spec("fast", priority=10))
    assert registry.choose(PROBLEM) is slow
    message = "backend 'fast' takes only arrays of gold, got float32 numpy arrays on cpu"
    with pytest.raises(bilevel.BackendRefused, match=message):
        registry.choose(PROBLEM, "fast")


def test_one_that_does_not_import_is_passed_over(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    module("present", variant("present"))
    install(spec("absent", priority=1), spec("present"))
    assert registry.choose(PROBLEM).name == "present"
    with pytest.raises(bilevel.BackendUnavailable, match="pip install absent"):
        registry.choose(PROBLEM, "absent")


def test_one_for_other_devices_is_not_even_imported(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    module("here", variant("here"))
    install(spec("elsewhere", priority=1, devices=("cuda", "hip")), spec("here"))
    assert registry.choose(PROBLEM).name == "here"
    install(spec("elsewhere", devices=("cuda", "hip")))
    with pytest.raises(bilevel.BackendRefused, match="takes only arrays on cuda or hip, got"):
        registry.choose(PROBLEM)


def test_all_refuse(install: Callable[..., None], module: Callable[..., None]) -> None:
    module("fast", variant("fast", "takes only gold"))
    module("slow", variant("slow", "takes only silver"))
    install(spec("slow"), spec("fast", priority=10))
    with pytest.raises(bilevel.BackendRefused, match=r"'fast' .* gold.*; .*'slow' .* silver"):
        registry.choose(PROBLEM)


def test_a_backend_as_a_value() -> None:
    backend = variant("mine")
    assert registry.choose(PROBLEM, backend) is backend
    with pytest.raises(bilevel.BackendRefused, match="backend 'mine' takes only gold"):
        registry.choose(PROBLEM, variant("mine", "takes only gold"))


def test_status_of_what_is_and_is_not_there(install: Callable[..., None]) -> None:
    missing = BackendSpec("new", "no_such_library", "no-such-library", "pip install new", "new:B")
    install(spec("fast"), missing)
    fast, new = bilevel.backends()
    assert (fast.name, fast.library, fast.version) == ("fast", "numpy", metadata.version("numpy"))
    assert fast.why_not is None
    assert (new.version, new.why_not) == (None, "no_such_library is not installed")
    assert new.install == "pip install new"


def test_of_several_distributions_one_is_enough(install: Callable[..., None]) -> None:
    either = ("no-such-distribution", "numpy", "pytest")
    install(spec("fast", requires=either), spec("slow", requires=either[:1]))
    fast, slow = bilevel.backends()
    assert fast.version == metadata.version("numpy")
    assert slow.version is None


def test_what_is_forgotten_is_looked_up_again(
    install: Callable[..., None], module: Callable[..., None]
) -> None:
    first, second = variant("fast"), variant("fast")
    module("fast", first)
    install(spec("fast"))
    assert registry.load("fast") is first
    module("fast", second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "entry_points", lambda *, group: [])
        assert registry.load("fast") is first
        assert [status.name for status in bilevel.backends()] == ["fast"]
        registry.forget()
        assert bilevel.backends() == []
        with pytest.raises(bilevel.BackendUnavailable, match="got 'fast'"):
            registry.load("fast")
    registry.forget()
    assert registry.load("fast") is second


def test_what_a_backend_says_that_it_lacks_is_not_to_be_installed(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loader(ModuleType):
        def __getattr__(self, name: str) -> Backend:
            raise bilevel.BackendUnavailable("there is no GPU")

    monkeypatch.setitem(sys.modules, "fast_module", Loader("fast_module"))
    install(spec("fast"))
    with pytest.raises(bilevel.BackendUnavailable, match=r"^there is no GPU$"):
        registry.load("fast")


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", "cpu"), ("cuda:1", "cuda"), ("<CUDA Device 0>", "cuda"), ("TFRT_CPU_0", "tfrt_cpu_0")],
)
def test_devices_as_libraries_write_them(device: str, kind: str) -> None:
    elsewhere = type("Elsewhere", (np.ndarray,), {"device": device})
    x: np.ndarray = np.ones(3, np.float32).view(elsewhere)
    assert registry.describe(x) == Problem("numpy", kind, "float32")


def test_subclasses_belong_to_the_library_of_their_base() -> None:
    class Mine(np.ndarray):
        pass

    assert registry.describe(np.ones(3, np.float32).view(Mine)) == PROBLEM


def test_a_torch_parameter_is_a_torch_array(torch: ModuleType) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    assert registry.describe(parameter) == Problem("torch", "cpu", "bfloat16")
