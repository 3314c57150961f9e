"""``bilevel doctor`` finds what is wrong with a backend, and says what is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevel
from bilevel import compose, doctor, registry
from bilevel.cli import main
from bilevel.protocol import Backend, Pullback, Routed, Routes
from tests.frameworks import load_or_skip

NUMPY = registry.load("numpy")
PLACE = "cpu-numpy"
"""Where a faulty backend is put."""


def bra_vjp(change: Callable[..., Any], *arguments: Any) -> tuple[Any, Pullback]:
    """NumPy's, with other gradients."""
    out, pullback = compose.bra_vjp(NUMPY, *arguments)
    return out, lambda d_out: change(*pullback(d_out))


def neighbours(routes: Routes) -> Routes:
    """The last of the routed regions is another."""
    index = routes.index.copy()
    index[..., -1] = (index[..., -1] + 1) % (index.max() + 1)
    return routes._replace(index=index)


def raising(*_: Any) -> Any:
    raise ZeroDivisionError("a fault")


def last_region_alone(q: Any, k: Any, v: Any, routed: Routed) -> Any:
    """All but the last of the routed regions is passed over."""
    return compose.bra(NUMPY, q, k, v, routed._replace(index=routed.index[..., -1:]))


def other_scale(q: Any, k: Any, v: Any, routed: Routed) -> Any:
    return compose.bra(NUMPY, q, k, v, routed._replace(scale=routed.scale * 1.01))


def not_numbers(q: Any, k: Any, v: Any, routed: Routed) -> Any:
    return v * np.nan


def other_routes(*arguments: Any) -> Routes:
    return neighbours(compose.bra_routes(NUMPY, *arguments))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "scale": ({"bra": other_scale}, "bra is off by"),
    "regions": ({"bra": last_region_alone}, "bra is off by"),
    "nan": ({"bra": not_numbers}, "bra is off by nan"),
    "routes": ({"bra_routes": other_routes}, "routing is off by"),
    "gradients": (
        {"bra_vjp": partial(bra_vjp, lambda dq, dk, dv: (dq, dv, dk))},
        "the gradient of k is off by",
    ),
    "raises": ({"bra": raising}, "raises ZeroDivisionError: a fault"),
}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """All libraries, some of which look for entry points as they are imported, before a test puts
    others in their place."""
    for row in bilevel.backends():
        doctor.why_not_ready(row.name)


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_backend_fails_and_so_does_the_command(
    name: str,
    stand_in: Callable[[str, Backend], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    changes, said = FAULTS[name]
    stand_in(PLACE, replace(NUMPY, name=PLACE, **changes))
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    printed = capsys.readouterr()
    assert (end.value.code, printed.err) == (1, "")
    [line] = [x for x in printed.out.splitlines() if x.startswith(f"self-test of {PLACE}: ")]
    assert line.startswith(f"self-test of {PLACE}: FAILED in ")
    assert said in line
    others = [x for x in printed.out.splitlines() if "FAILED" in x and x != line]
    assert not others


def test_backends_that_are_ready_pass(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is True
    assert found["versions"]["bilevel"] == bilevel.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert [trial["backend"] for trial in found["trials"]] == [b.name for b in bilevel.backends()]
    ready = {trial["backend"]: trial for trial in found["trials"] if trial["ready"]}
    assert {"numpy", "torch"} <= set(ready)
    assert all(trial["passed"] and "within" in trial["said"] for trial in ready.values())
    idle = [trial for trial in found["trials"] if not trial["ready"]]
    assert all(trial["said"] and not trial["passed"] for trial in idle)
    for choice in found["choices"]:
        if choice["backend"] is None:
            assert choice["refusals"]


def test_who_computes_is_who_is_chosen() -> None:
    load_or_skip("torch")
    import torch

    for choice in doctor.choices():
        if choice.device == "cpu":
            x = np.zeros(1, np.float32) if choice.library == "numpy" else torch.zeros(1)
            problem = registry.describe(x)._replace(head_dim=32, axes=2)
            assert registry.choose(problem).name == choice.backend
            assert choice.backend not in choice.refusals


def test_without_a_gpu_none_computes_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_skip("torch")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = {each.library: each for each in doctor.choices() if each.device == "cuda"}
    assert on_gpu["torch"].backend is None
    assert on_gpu["torch"].refusals == {"torch": "torch finds no GPU"}
    assert list(doctor.devices()) == ["cpu"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_is_one_screen(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    assert len(lines) * width < 50 * 80


def test_a_torch_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.devices()
    assert found["torch"].startswith("does not import (ModuleNotFoundError: ")


def test_caches_are_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bilevel" / "inner").mkdir(parents=True)
    (tmp_path / "bilevel" / "inner" / "kernel.so").write_bytes(bytes(1234))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    found = doctor.caches()
    assert found[str(tmp_path / "bilevel")] == 1234
    assert str(tmp_path / "none") not in found
    assert not any("$" in folder for folder in found)
