"""The picture of routes in the documentation is what its command draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bilevel.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = DOCS / "_static" / "digits.png"
BLOCKS = 60, 34
"""Across and down: about 20 pixels on each side, small beside a region."""
ROUNDING = 16.0
"""Difference of a block, of 255, that other versions of Matplotlib and Pillow may make."""


def test_what_is_committed_is_what_the_command_draws(tmp_path: Path) -> None:
    page = (DOCS / "visualize.md").read_text("utf-8")
    [command] = [words for words in page.split("`") if words.endswith("docs/_static/digits.png")]
    _, *args, _ = command.split()
    drawn = {}
    for name, more in (("same", []), ("other", ["--block", "0", "--stage", "3"])):
        main([*args, str(tmp_path / f"{name}.png"), *more])
        drawn[name] = in_blocks(tmp_path / f"{name}.png")
    committed = in_blocks(PICTURE)
    assert np.abs(drawn["same"] - committed).max() < ROUNDING
    assert np.abs(drawn["other"] - committed).max() > ROUNDING
    assert PICTURE.stat().st_size < 100_000


def in_blocks(path: Path) -> NDArray[np.float64]:
    """The mean colours of the blocks of a picture."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize(BLOCKS, Image.Resampling.BOX)
    return np.asarray(small, np.float64)
