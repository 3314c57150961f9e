"""The drawings of the documentation, of a real photograph and its real routes.

``python docs/drawings.py`` draws them anew; a test compares what is committed with what it draws.
They are committed because the README shows them too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from skimage import color, data

import bilevel

STATIC = Path(__file__).parent / "_static"

Pixels = NDArray[Any]
"""A photograph, or its tokens: ``(H, W, 3)``, from 0 to 1."""

SIDE = 5
"""Pixels on each side of a token."""
GRID = bilevel.Grid((60, 90), (6, 9))
"""Tokens of 5 x 5 pixels on 300 x 450 pixels; regions of 10 x 10 tokens."""
TOPK = 4
SCALE = 16.0
"""Factor on the scores of token attention: features of length 1 need more than ``D ** -0.5``."""
EYE = (2, 3)
"""Row and column of the region whose routes are drawn: the eye on the left."""
PUPIL = (4, 5)
"""Row and column, in that region, of the token whose weights are drawn."""

QUERY, ROUTED = "#ffd500", "#00b8d9"
GREY = "#808890"
"""Words and arrows: readable on white and on black."""


class Drawn(NamedTuple):
    """What the drawings show."""

    photo: Pixels
    tokens: Pixels
    """Mean colour of each token, ``(60, 90, 3)``."""
    routed: list[int]
    """The regions that the eye's region is routed to, best first."""
    weights: Pixels
    """The pupil's weights for the tokens of each routed region, ``(k, 10, 10)``."""


def compute() -> Drawn:
    """The routes and the weights, by bilevel's own functions."""
    photo = data.chelsea()[:300, :450] / 255.0
    x = features(photo)
    mean = bilevel.summarize(x, GRID)
    routes = bilevel.route(mean, mean, TOPK)
    region = EYE[0] * GRID.regions[1] + EYE[1]
    keys = bilevel.gather(bilevel.partition(x, GRID), routes.index)[0, region, :, 0]
    query = bilevel.partition(x, GRID)[0, region, PUPIL[0] * 10 + PUPIL[1], 0]
    weights = np.exp(keys @ query * SCALE)
    weights = (weights / weights.sum()).reshape(TOPK, 10, 10)
    return Drawn(photo, in_tokens(photo).mean((1, 3)), routes.index[0, region].tolist(), weights)


def features(photo: Pixels) -> Pixels:
    """Queries and keys, ``(1, 60, 90, 1, 6)``: mean and standard deviation of the three channels of
    CIELAB in each token, standardised over the image, then scaled to length 1."""
    tokens = in_tokens(color.rgb2lab(photo))
    x = np.concatenate([tokens.mean((1, 3)), tokens.std((1, 3))], axis=-1)
    x = (x - x.mean((0, 1))) / x.std((0, 1))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x[None, :, :, None, :]


def in_tokens(photo: Pixels) -> Pixels:
    """``(300, 450, 3)`` to ``(60, 5, 90, 5, 3)``."""
    height, width = GRID.spatial
    return photo.reshape(height, SIDE, width, SIDE, 3)


def of_region(tokens: Pixels, region: int) -> Pixels:
    """The tokens of one region, ``(10, 10, 3)``."""
    row, column = divmod(region, GRID.regions[1])
    return tokens[row * 10 : row * 10 + 10, column * 10 : column * 10 + 10]


def draw_routes(drawn: Drawn) -> Figure:
    """The photograph in regions; the eye's region, and the regions that it is routed to by rank."""
    figure = plt.figure(figsize=(9, 6), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 450), ylim=(300, 0))
    axes.axis("off")
    grey = drawn.photo.mean(-1, keepdims=True)
    faded = 0.45 * drawn.photo + 0.25 * grey + 0.3
    axes.imshow(faded, extent=(0, 450, 300, 0), interpolation="bicubic")
    for line in range(50, 450, 50):
        axes.axvline(line, color="white", linewidth=1, alpha=0.8)
        axes.axhline(line, color="white", linewidth=1, alpha=0.8)
    for rank, region in enumerate(drawn.routed):
        row, column = (50 * each for each in divmod(region, GRID.regions[1]))
        inside = (column, column + 50, row + 50, row)
        axes.imshow(drawn.photo[row : row + 50, column : column + 50], extent=inside)
        shade = 0.6 - 0.12 * rank
        axes.add_patch(Rectangle((column, row), 50, 50, alpha=shade, fc=ROUTED, zorder=3))
        number(axes, (column + 39, row + 12), rank)
    outline(axes, (50 * EYE[1], 50 * EYE[0], 50, 50), QUERY, linewidth=6)
    axes.set(xlim=(0, 450), ylim=(300, 0))
    return figure


def number(axes: Axes, place: tuple[float, float], rank: int) -> None:
    axes.text(
        *place,
        str(rank + 1),
        color="white",
        fontsize=26,
        fontweight="bold",
        ha="center",
        va="center",
        zorder=5,
        path_effects=[withStroke(linewidth=4, foreground="#123")],
    )


def draw_tokens(drawn: Drawn) -> Figure:
    """The tokens of those regions; gathered; and what one query token attends to."""
    figure = plt.figure(figsize=(7.2, 7.4), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 720), ylim=(740, 0))
    axes.axis("off")
    columns = [150 + 145 * rank for rank in range(TOPK)]
    words(axes, 8, 24, "query")
    words(axes, columns[0] + 8, 24, "routed regions, best first")
    region = EYE[0] * GRID.regions[1] + EYE[1]
    square(axes, 6, 46, 120, of_region(drawn.tokens, region))
    outline(axes, (6, 46, 120, 120), QUERY)
    outline(axes, (6 + 12 * PUPIL[1], 46 + 12 * PUPIL[0], 12, 12), "white", linewidth=2.5)
    for rank, (x, routed) in enumerate(zip(columns, drawn.routed, strict=True)):
        square(axes, x, 46, 120, of_region(drawn.tokens, routed))
        outline(axes, (x, 46, 120, 120), ROUTED)
        number(axes, (x + 22, 66), rank)
        arrow(axes, (x + 60, 174), (97 + 176 * rank, 262))
    words(axes, 8, 212, "gather")
    joined = [of_region(drawn.tokens, routed) for routed in drawn.routed]
    strip(axes, 266, joined)
    words(axes, 8, 478, "attend")
    arrow(axes, (360, 448), (360, 510))
    heat = plt.get_cmap("magma")(np.sqrt(drawn.weights / drawn.weights.max()))[..., :3]
    strip(axes, 514, list(heat))
    words(axes, 360, 715, "weights of the token outlined in white", ha="center")
    axes.set(xlim=(0, 720), ylim=(740, 0))
    return figure


def words(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    axes.text(x, y, text, color=GREY, fontsize=21, fontweight="bold", va="center", **how)


def square(axes: Axes, x: float, y: float, side: float, tokens: Pixels) -> None:
    """Tokens as squares with a thin line between them."""
    count = tokens.shape[0]
    axes.imshow(tokens, extent=(x, x + side, y + side, y), interpolation="nearest", zorder=2)
    for line in range(1, count):
        at = side * line / count
        for xs, ys in (([x + at, x + at], [y, y + side]), ([x, x + side], [y + at, y + at])):
            axes.plot(xs, ys, color="white", linewidth=0.5, alpha=0.5, zorder=3)


def strip(axes: Axes, y: float, parts: list[Pixels]) -> None:
    """The tokens of several regions side by side, as attention has them."""
    for rank, part in enumerate(parts):
        square(axes, 8 + 176 * rank, y, 176, part)
    outline(axes, (8, y, 176 * len(parts), 176), ROUTED)


def outline(axes: Axes, box: tuple[float, ...], edge: str, linewidth: float = 5) -> None:
    x, y, width, height = box
    how: dict[str, Any] = {"fill": False, "edgecolor": edge, "linewidth": linewidth, "zorder": 4}
    axes.add_patch(Rectangle((x, y), width, height, **how))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    how = {"arrowstyle": "-|>,head_width=0.5,head_length=0.8", "color": GREY, "linewidth": 3}
    axes.annotate("", end, start, arrowprops=how)


DRAWINGS: dict[str, Callable[[Drawn], Figure]] = {
    "routes.jpg": draw_routes,
    "tokens.png": draw_tokens,
}
"""File names in ``docs/_static``, and what draws them."""


def save(figure: Figure, target: Any, kind: str) -> None:
    """To a path or an open file, as ``"jpg"``, or as ``"png"`` with a transparent background."""
    options = {"quality": 88} if kind == "jpg" else {"optimize": True}
    figure.savefig(target, format=kind, transparent=kind == "png", pil_kwargs=options)
    plt.close(figure)


if __name__ == "__main__":
    plt.switch_backend("agg")
    shown = compute()
    for file_name, draw in DRAWINGS.items():
        save(draw(shown), STATIC / file_name, file_name.rpartition(".")[2])
