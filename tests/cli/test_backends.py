"""What `bilevel backends` prints, at any width and in a pipe."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import pytest

import bilevel
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
