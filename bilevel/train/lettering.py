"""Text in pictures as it is: no mathematics in it, nothing without a glyph, not too long."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

LONGEST = 15
"""The widest name in a caption, in letters; those of East Asia count twice."""


def caption(label: str, found: str) -> str:
    """A name and what it was taken for, for the top of a small image."""
    a, b = (_short(legible(name)) for name in (label, found))
    return f"{a} → {b}" if _width(a) + _width(b) <= LONGEST else f"{a} →\n{b}"


def legible(text: str) -> str:
    """A text whose every character has a glyph; those that have none are escaped as in Python."""
    return "".join(c if c.isprintable() and _family(c) else _escaped(c) for c in text)


def style(text: str) -> dict[str, Any]:
    """Settings of Matplotlib under which a legible text is drawn letter by letter."""
    families = dict.fromkeys([_usual().get_name(), *map(_family, text)])
    return {"parse_math": False, "family": [name for name in families if name]}


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else repr(character)[1:-1]
    )


def _width(text: str) -> int:
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _short(text: str) -> str:
    """Without its middle, if it is too long."""
    if _width(text) <= LONGEST:
        return text
    begin, end = text, text
    while _width(begin) > LONGEST // 2:
        begin = begin[:-1]
    while _width(end) > LONGEST // 2:
        end = end[1:]
    return f"{begin}…{end}"


def _usual() -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties()


@cache
def _family(character: str) -> str | None:
    """The font family to draw a character with; None if no installed one has it."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    usual = _usual()
    if _has(fontManager.findfont(usual), character) or character == "\n":
        return usual.get_name()
    # Of Matplotlib's own, the others are for mathematics and have glyphs in odd places.
    others = (
        font
        for font in fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, "normal", "regular")
        and not font.fname.startswith(get_data_path())
        and "lastresort" not in font.name.lower().replace(" ", "")
    )
    return next((font.name for font in others if _has(font.fname, character)), None)


def _has(path: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # a font that cannot be read
        return False
    return bool(font.scalable and font.get_char_index(ord(character)))
