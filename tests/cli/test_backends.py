"""What `bilevel backends` prints, at any width and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest

import bilevel
from bilevel import registry
from bilevel.cli import main
from tests.frameworks import needs


@pytest.mark.parametrize("width", range(40, 201, 8))
def test_lines_are_as_long_as_the_width_allows(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main(["backends"])
    lines = capsys.readouterr().out.splitlines()
    for row in bilevel.backends():
        assert f"{row.name} {row.version or '-'}" in lines
        assert f"  install: {row.install}" in lines
    wrapped = [line for line in lines if not line.startswith("  install: ")]
    assert all(len(line) <= width or " " not in line.strip() for line in wrapped)
    for line, following in pairwise(wrapped):
        if following.startswith("    "):  # the next word had no place
            assert len(line) + 1 + len(following.split()[0]) > width


def test_a_narrow_terminal_is_taken_to_have_40_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for width in ("1", "20", "40"):
        monkeypatch.setenv("COLUMNS", width)
        main(["backends"])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]


def test_torch_is_not_asked_for_devices_of_other_libraries(
    install: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their backends say themselves, as they load, whether there is one."""
    monkeypatch.setitem(sys.modules, "other_module", SimpleNamespace(B=registry.load("numpy")))
    spec = registry.specs()["numpy"]
    install(replace(spec, name="other", load="other_module:B", devices=("quantum",)))
    main(["backends"])
    assert capsys.readouterr().out.splitlines()[1] == "  ready: yes"


@needs("triton", "3.6", "it is too old for the backend, which says so")
def test_without_a_gpu_no_backend_for_one_is_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, torch: ModuleType
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(["backends"])
    said = capsys.readouterr().out
    assert "torch finds none here" in said.partition("\ntriton ")[2]
    assert "ready: yes" in said.partition("\ntorch ")[2].partition("\ntriton ")[0]
