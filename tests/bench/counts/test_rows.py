"""``bilevel bench counts`` writes its file, and says what it lacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bilevel.bench.counts import rows
from bilevel.bench.counts.ahead import Compiled
from bilevel.bench.shapes import SHAPES
from bilevel.cli import main
from tests.bench.counts.test_kernels import compiled


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass launches a kernel twice; nothing is compiled."""

    def launched(*_: object) -> dict[str, list[Compiled]]:
        return {name: [compiled(), compiled()] for name in rows.PASSES}

    monkeypatch.setattr(rows, "launched", launched)


@pytest.mark.usefixtures("counted")
def test_the_file_has_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "counts", "--out", str(tmp_path / "new")])
    found = json.loads((tmp_path / "new" / "sm_90-counts.json").read_text())
    assert list(found["rows"]) == list(rows.ROWS)
    assert "gpu" not in found  # only files of measured times have one
    for row in found["rows"].values():
        for name in rows.PASSES:
            for what in ("issue", "exp", "memory"):
                each = [kernel[f"{what}_us"] for kernel in row["kernels"][name]]
                assert row[f"{name}_{what}_us"] == pytest.approx(sum(each), abs=0.01)
    first = found["rows"]["224 s1"]
    assert first["forward_floor_us"] == pytest.approx(42.8, abs=0.1)
    limit = first[f"forward_{first['forward_limit']}_us"]
    assert first["forward_share_of_floor"] == pytest.approx(42.8 / limit, abs=0.01)
    assert "not measured times" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.usefixtures("counted")
def test_one_row_is_printed_kernel_by_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["bench", "counts", "--only", "224 s3", "--arch", "sm_80"])
    printed = capsys.readouterr().out
    assert "programs_per_multiprocessor: 4" in printed
    assert "224 s1" not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda path: ["--only", "224 s5"], "224 s1, 224 s2"),
        (lambda path: ["--out", str(path)], "name a folder"),
    ],
    ids=["row", "file"],
)
def test_mistakes_are_named(
    arguments: Callable[[Path], list[str]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SystemExit):
        main(["bench", "counts", *arguments(path)])
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_rows_are_shapes_that_are_measured() -> None:
    assert set(rows.ROWS.values()) <= SHAPES["cuda"].keys()


def test_without_triton_the_error_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    with pytest.raises(SystemExit):
        main(["bench", "counts"])
    assert "triton" in capsys.readouterr().err


def test_interpreted_kernels_are_not_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit):
        main(["bench", "counts"])
    assert "unset it" in capsys.readouterr().err.replace("\n", " ")
