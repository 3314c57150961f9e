"""The drawings of the documentation show what the code computes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from docs.drawings import Drawn

NAMES = ("routes.jpg", "tokens.png")
BLOCK = 20
"""Pixels on each side of the blocks that are compared: small beside a region."""
ROUNDING = 16.0
"""Difference of a block, of 255, that other versions of matplotlib and Pillow may make."""


@pytest.fixture(scope="module")
def drawings() -> Any:
    """The script, which imports what takes seconds."""
    from matplotlib import pyplot

    from docs import drawings

    pyplot.switch_backend("agg")
    assert tuple(drawings.DRAWINGS) == NAMES
    return drawings


@pytest.fixture(scope="module")
def drawn(drawings: Any) -> Drawn:
    return drawings.compute()


def test_an_eye_is_routed_to_itself_and_to_the_other_eye(drawings: Any, drawn: Drawn) -> None:
    """What the caption says."""
    rows, columns = drawings.GRID.regions
    assert rows * columns == 54
    assert drawn.routed[:2] == [2 * columns + 3, 2 * columns + 6]


def test_weights_are_those_of_attention(drawings: Any, drawn: Drawn) -> None:
    assert drawn.weights.shape == (drawings.TOPK, 10, 10)
    np.testing.assert_allclose(drawn.weights.sum(), 1)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_what_the_script_draws(name: str, drawings: Any, drawn: Drawn) -> None:
    assert difference(drawings, name, drawn) < ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_other_routes_would_be_seen(name: str, drawings: Any, drawn: Drawn) -> None:
    first, *_, last = drawn.routed
    others = drawn._replace(routed=[last, *drawn.routed[1:-1], first + 9])
    assert difference(drawings, name, others) > ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_drawings_are_small(name: str, drawings: Any) -> None:
    assert (drawings.STATIC / name).stat().st_size < 150_000


def difference(drawings: Any, name: str, drawn: Drawn) -> float:
    """The largest difference of a block between a drawing and the committed one, of 255."""
    anew = io.BytesIO()
    drawings.save(drawings.DRAWINGS[name](drawn), anew, Path(name).suffix[1:])
    a, b = (in_blocks(Image.open(file)) for file in (anew, drawings.STATIC / name))
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


def in_blocks(image: Image.Image) -> NDArray[np.float64]:
    width, height = image.width // BLOCK, image.height // BLOCK
    pixels = np.asarray(image.convert("RGBA"), np.float64)
    return pixels.reshape(height, BLOCK, width, BLOCK, 4).mean((1, 3))
