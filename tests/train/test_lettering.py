"""Names in pictures: as they are, without warnings (which are errors here)."""

from __future__ import annotations

from io import BytesIO
from random import Random
from typing import TYPE_CHECKING

import pytest
import torch

from bilevel.train import lettering, pictures, table
from bilevel.train.lettering import caption, legible, style
from bilevel.train.pictures import Seen, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # it takes a second to import

NAMES = (
    *("$1_bill", "100$", "$a$", "a^2", "x_1", r"\frac{1}{2}", r"$\frac{", "50%", "{}", "a&b", "#1"),
    *(
        "猫",
        "кот",
        "قطة",
        "🐈",
        "ñandú",
        "a\nb",
        "a\tb",
        "\x07",
        "\udcff",
        "e\u0301",
        "\u200b",
        "_x",
    ),
    *("x" * 300, "猫" * 80, "$" * 90, "", " "),
)


def drawn(figure: Figure) -> None:
    figure.savefig(BytesIO(), dpi=30)


def texts(figure: Figure) -> list[str]:
    """What the images on a sheet have above them, as Matplotlib draws it: without mathematics."""
    titles = [axes.title for axes in figure.axes]
    assert not any(title.get_parse_math() for title in titles if title.get_text())
    return [title.get_text() for title in titles]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_as_it_is_and_without_warnings(name: str) -> None:
    image = torch.zeros(1, 4, 4)
    figure = sheet([Seen(image, caption(name, "cat"), False)] * 48, "label → prediction")
    drawn(figure)
    [shown, *_] = texts(figure)
    assert shown.replace("\n", " ").endswith(" → cat")
    if name.isascii() and name.isprintable() and len(name) < 15:
        assert shown.startswith(f"{name} →")
    rows = [table.row(1, 0.1, {name: 1.0}, {name: 2.0}, {}, 1.0)]
    drawn(pictures.curves(rows))


def test_random_names_are_drawn_without_warnings() -> None:
    draw = Random(0)
    image = torch.zeros(1, 4, 4)
    for _ in range(6):
        names = [
            "".join(
                chr(draw.choice((36, 92, 94, 95, 123, draw.randrange(1, 0xFFFF)))) for _ in "12"
            )
            for _ in range(96)
        ]
        seen = [
            Seen(image, caption(*pair), True) for pair in zip(names[::2], names[1::2], strict=True)
        ]
        drawn(sheet(seen, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$1_bill", "$1_bill"),
        ("a\nb\x07\\", "a\\nb\\x07\\"),
        ("\udcff", "\\udcff"),
        ("кот", "кот"),
        ("\U0010fffd", "\\U0010fffd"),
    ],
)
def test_what_has_no_glyph_is_escaped(text: str, expected: str) -> None:
    assert legible(text) == expected


def test_a_font_that_has_the_glyph_is_taken_where_one_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib import font_manager

    def with_cats(path: str, character: str) -> bool:
        return character != "猫" or path == "/fonts/cats.ttf"

    cats = [
        font_manager.FontEntry(fname="/fonts/cats.ttf", name="Cats", style=s, weight=w)
        for s, w in (("italic", 400), ("normal", 700), ("normal", 400))
    ]
    for known, expected, names in ((cats, "猫a", ["Cats"]), (cats[:2], r"\u732ba", [])):
        lettering._family.cache_clear()
        monkeypatch.setattr(lettering, "_has", with_cats)
        monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
        assert legible("猫a") == expected
        assert style(expected)["family"][1:] == names
        monkeypatch.undo()
    lettering._family.cache_clear()


def test_long_names_lose_their_middle() -> None:
    assert caption("a" * 10 + "b" * 10, "cat") == "aaaaaaa…bbbbbbb →\ncat"
    assert caption("cat", "dog") == "cat → dog"
    assert caption("caterpillar", "doghouse") == "caterpillar →\ndoghouse"
