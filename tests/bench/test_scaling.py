"""The rows of ``bilevel bench scaling``, and the exponents that are fitted to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bilevel import plan
from bilevel.bench import scaling
from bilevel.cli import main


def test_operations_grow_as_the_paper_says() -> None:
    rows = [
        {"tokens": n * n, "flops": scaling.counted(n, plan((n, n), scaling.TOPK).regions)}
        for n in scaling.SIZES
    ]
    fitted = scaling.exponents(rows)["flops"]
    assert fitted["bra"] == pytest.approx(scaling.PAPER, abs=0.03)
    assert fitted["dense"] == pytest.approx(scaling.DENSE, abs=1e-9)


def test_the_sizes_reach_from_32_to_512() -> None:
    assert (scaling.SIZES[0], scaling.SIZES[-1]) == (32, 512)
    assert (scaling.TIMED[0], scaling.TIMED[-1]) == (64, 256)
    assert set(scaling.TIMED) < set(scaling.SIZES)


def test_rows_are_saved_with_times_of_other_numbers_of_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "SIZES", (8, 16, 24))
    monkeypatch.setattr(scaling, "TIMED", (16, 24))
    main(["bench", "scaling", "--rounds", "1", "--out", str(tmp_path)])
    saved = json.loads((tmp_path / "scaling.json").read_text())
    assert saved["commands"] == {"scaling": "bilevel bench scaling --device cpu --rounds 1"}
    small, middle, large = saved["rows"]
    assert "milliseconds" not in small
    for row, side in ((middle, 16), (large, 24)):
        assert row["tokens"] == side**2
        assert row["regions"] == plan((side, side), scaling.TOPK).regions
        times = row["by_regions_ms"]
        assert len(times) > 3
        assert row["milliseconds"]["bra"] == times[str(row["regions"])]
        assert row["milliseconds"]["dense"] > 0
        fastest, times_as_long = scaling.lost(row)
        assert times[str(fastest)] == min(times.values())
        assert times_as_long == times[str(row["regions"])] / min(times.values())
        assert not row["left_out"]
    said = capsys.readouterr().out
    assert "exponent of H * W, flops: bra " in said
    assert "exponent of H * W, milliseconds: bra " in said


def test_an_exponent_is_the_slope_of_the_logarithms() -> None:
    rows = [{"tokens": n, "flops": {"a": 5 * n**1.5}, "milliseconds": {"b": n}} for n in (3, 9, 4)]
    rows[0]["milliseconds"] = {"b": 3.0, "once": 1.0}
    fitted = scaling.exponents(rows)
    assert fitted["flops"] == pytest.approx({"a": 1.5})
    assert fitted["milliseconds"] == pytest.approx({"b": 1.0})
