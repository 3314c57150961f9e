"""Figures of what one token attends to, as figure 4 of the paper. Needs Matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ShapeError
from bilevel.visual.maps import AttentionMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUERY, ROUTED = "#ffd500", "#00b8d9"
"""Colours of the query and its region, and of what that is routed to: apart for every eye, and on
light and dark pictures."""
STRONGEST, WEAKEST = 0.6, 0.15
"""How much of the colour the best and the last of the routed regions have."""


def draw(picture: NDArray[Any], found: AttentionMap, title: str = "") -> Figure:
    """A figure: the picture in regions, with that of the query outlined and the routed ones shaded
    by rank; beside it what the query attends to.

    Parameters
    ----------
    picture
        The image as people see it, ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``: floats from 0 to 1,
        or uint8.
    found
        What :func:`attention_map` found in that image.
    title
        A line above.

    Raises
    ------
    ShapeError
        If the picture has another size than the image.

    Examples
    --------
    >>> import torch
    >>> from bilevel import models
    >>> from bilevel.visual import attention_map
    >>> image = torch.rand(1, 3, 224, 160)
    >>> found = attention_map(models.biformer_tiny(num_classes=10), image, at=(120, 80))
    >>> figure = draw(image[0].permute(1, 2, 0).numpy(), found)
    >>> len(figure.axes)
    2
    """
    from matplotlib.figure import Figure

    shown = as_rgb(picture)
    if shown.shape[:2] != found.size:
        raise ShapeError(f"expected a picture of {found.size} pixels, got {shown.shape[:2]}")
    height, width = found.size
    figure = Figure(figsize=(8, 4 * height / width + 0.5), layout="constrained")
    routes, attention = figure.subplots(1, 2)
    _draw_routes(routes, shown, found)
    _draw_attention(attention, shown, found)
    if title:
        figure.suptitle(title)
    return figure


def as_rgb(picture: NDArray[Any]) -> NDArray[np.float64]:
    """``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` to floats ``(H, W, 3)`` from 0 to 1."""
    x = np.asarray(picture)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        raise ShapeError(f"expected a picture (H, W), (H, W, 1) or (H, W, 3), got {x.shape}")
    x = x / 255 if x.dtype == np.uint8 else np.clip(x.astype(np.float64), 0, 1)
    return np.broadcast_to(x, (*x.shape[:2], 3))


def shade(rank: int, count: int) -> float:
    """How much of its colour the routed region of a rank has, of so many."""
    return STRONGEST - (STRONGEST - WEAKEST) * rank / max(1, count - 1)


def _draw_routes(axes: Axes, picture: NDArray[np.float64], found: AttentionMap) -> None:
    _show(axes, _faded(picture), found)
    boxes = found.routes.boxes() * found.routes.stride
    for box in boxes:
        _rectangle(axes, box, edgecolor="white", linewidth=0.5, alpha=0.6)
    for rank, region in enumerate(found.routed):
        alpha = shade(rank, len(found.routed))
        _rectangle(axes, boxes[region], fill=True, facecolor=ROUTED, alpha=alpha)
        (top, bottom), (left, right) = boxes[region]
        if bottom > top and right > left and len(found.routed) > 1:
            _number(axes, (left + right) / 2, (top + bottom) / 2, rank + 1)
    _rectangle(axes, boxes[found.region], edgecolor=QUERY, linewidth=2.5)
    _mark_query(axes, found)
    axes.set_title("routed regions, best first", fontsize=10)


def _draw_attention(axes: Axes, picture: NDArray[np.float64], found: AttentionMap) -> None:
    """The square root of the weights, so that small ones are seen too."""
    _show(axes, picture.mean(-1, keepdims=True).repeat(3, -1), found)
    strength = np.sqrt(found.pixels() / max(found.weights.max(), 1e-300))
    height, width = found.size
    axes.imshow(
        strength,
        cmap="magma",
        alpha=0.3 + 0.6 * strength,
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    _mark_query(axes, found)
    axes.set_title("attention of the marked token", fontsize=10)


def _show(axes: Axes, picture: NDArray[np.float64], found: AttentionMap) -> None:
    height, width = found.size
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _faded(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Paler, so that shades are seen on it."""
    grey: NDArray[np.float64] = picture.mean(-1, keepdims=True)
    return 0.5 * picture + 0.25 * grey + 0.2


def _mark_query(axes: Axes, found: AttentionMap) -> None:
    side = found.routes.stride
    row, column = found.query
    box = [(row * side, (row + 1) * side), (column * side, (column + 1) * side)]
    _rectangle(axes, box, edgecolor="black", linewidth=3)
    _rectangle(axes, box, edgecolor=QUERY, linewidth=1.5)


def _rectangle(axes: Axes, box: Any, fill: bool = False, **how: Any) -> None:
    from matplotlib.patches import Rectangle

    (top, bottom), (left, right) = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=fill, **how))


def _number(axes: Axes, x: float, y: float, text: int) -> None:
    from matplotlib.patheffects import withStroke

    effects = [withStroke(linewidth=2, foreground="#123")]
    how: dict[str, Any] = {"ha": "center", "va": "center", "path_effects": effects}
    axes.text(x, y, str(text), color="white", fontsize=8, fontweight="bold", **how)
