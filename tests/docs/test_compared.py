"""What the documentation makes of the files of ``compare`` and ``bench scaling``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def row(name: str, macs: float, **more: Any) -> dict[str, Any]:
    counts = {"parameters": 2.5e6, "macs": macs}
    return {"name": name, "group": "mixers", "source": "a paper", "counts": counts, **more}


ROWS: list[dict[str, Any]] = [
    row(
        "bra",
        4.5e9,
        accuracy={"0": 0.90, "1": 0.92},
        speed={"images_per_s": 10, "to_bra": 1.0, "peak_bytes": 2**21},
    ),
    row(
        "window",
        4.4e9,
        accuracy={"0": 0.93, "1": 0.93},
        speed={"images_per_s": 20, "to_bra": 2.0, "peak_bytes": 2**22},
    ),
    row("axial", 4.501e9, accuracy={"0": 0.5}),
    {**row("Model", 9e9), "group": "models", "source": ""},
]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that the documentation is built with."""
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("compared")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "compare.json"
    file.write_text(json.dumps({"parts": {}, "rows": ROWS}))
    return file


def test_the_table_has_what_any_row_has(pages: Any, path: Path) -> None:
    title, _, bra, window, axial = pages.table(path, "mixers").splitlines()
    assert title == (
        "|  | from | parameters, M | GMACs | images/s | times bra's | MiB | accuracy, % |"
    )
    assert bra == "| `bra` | a paper | 2.50 | 4.50 | 10.0 | 1.00 | 2.00 | 91.00 ± 1.41 |"
    assert window == "| `window` | a paper | 2.50 | 4.40 | 20.0 | 2.00 | 4.00 | 93.00 |"
    assert axial == "| `axial` | a paper | 2.50 | 4.50 |  |  |  | 50.00 |"
    assert pages.table(path, "models").splitlines() == [
        "|  | parameters, M | GMACs |",
        "| --- | ---: | ---: |",
        "| `Model` | 2.50 | 9.00 |",
    ]


def test_the_page_says_where_bra_does_not_win(pages: Any, path: Path) -> None:
    assert pages.standing(path).splitlines() == [
        "- parameters, M (2.50): BRA wins.",
        "- GMACs (4.50): BRA is beaten by 1 of 2: `window` (4.40).",
        "- times bra's (1.00): BRA is beaten by 1 of 1: `window` (2.00).",
        "- MiB (2.00): BRA wins.",
        "- accuracy, % (91.0): BRA is beaten by 1 of 2: `window` (93.0).",
        "- Not measured yet: speed of axial (`bilevel compare --parts speed`).",
    ]


def test_scaling_is_shown_with_exponents_and_where_the_plan_loses(
    pages: Any, tmp_path: Path
) -> None:
    rows = [
        {
            "name": f"{n} x {n}",
            "tokens": n * n,
            "regions": 4,
            "flops": {"bra": n**3 * 1e9, "dense": n**4 * 1e9},
            "milliseconds": {"bra": 1.0 * n, "dense": 1.0 * n * n},
            "by_regions_ms": {"4": 1.5, "8": 1.0 if n == 2 else 2.0},
        }
        for n in (1, 2, 4)
    ]
    del rows[0]["milliseconds"], rows[0]["by_regions_ms"]
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps({"rows": rows}))
    lines = pages.scaling(file).splitlines()
    assert lines[2] == "| 1\xa0x\xa01 | 4 | 1.00 | 1.00 |  |  |"
    assert lines[3] == "| 2\xa0x\xa02 | 4 | 8.00 | 16.0 | 2.00 | 4.00 |"
    assert lines[-1] == (
        "| **exponent** |  | **1.500** (of 1.33) | **2.000** (of 2.00) | **0.500** (of 1.33) | "
        "**1.000** (of 2.00) |"
    )
    said = pages.regions(file).splitlines()
    assert said[2] == "| 2\xa0x\xa02 | 4 | 4: 1.50, 8: 1.00 | 8 |"
    assert said[-1] == (
        "The plan's number was not the fastest at 2\xa0x\xa02 (50 % slower than with 8 regions)."
    )


@pytest.mark.parametrize(
    ("picture", "file", "words"),
    [
        ("comparison", "compare.json", ["bra", "criss-cross", "GMACs"]),
        ("scaling", "scaling.json", ["bra, exponent 1.", "dense, exponent 2."]),
    ],
)
def test_pictures_of_what_was_measured(
    picture: str, file: str, words: list[str], pages: Any
) -> None:
    draw = pages.PICTURES[picture]
    text = pages.svg(draw(DOCS / "benchmarks" / file))
    assert text.startswith("<svg")
    assert text == pages.svg(draw(DOCS / "benchmarks" / file))
    assert all(word in text for word in words)


def test_bars_have_the_height_of_their_numbers(pages: Any, path: Path) -> None:
    first, speed, accuracy = pages.comparison_picture(path).axes
    assert [bar.get_width() for bar in first.patches] == pytest.approx([4.5, 4.4, 4.501])
    assert [bar.get_width() for bar in speed.patches] == [1.0, 2.0, 0.0]
    assert [bar.get_width() for bar in accuracy.patches] == pytest.approx([91, 93, 50])
