"""Figures show what was found, where it was found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bilevel import Grid, ShapeError, visual
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.visual.figures import QUERY, ROUTED, shade
from tests.visual import planted

CONFIG = BiFormerConfig((1, 1), (8, 16), topk=(3, None), head_dim=8, regions=3, num_classes=2)


def boxes_of(figure: Figure, colour: str, filled: bool) -> dict[tuple[float, ...], float]:
    """The rectangles of a colour in the first picture, as top, bottom, left, right; and how much of
    the colour they have."""
    found: dict[tuple[float, ...], float] = {}
    for each in figure.axes[0].patches:
        assert isinstance(each, Rectangle)
        painted = each.get_facecolor() if filled else each.get_edgecolor()
        if each.get_fill() == filled and np.allclose(to_rgb(painted), to_rgb(colour)):
            (left, top), bottom = each.get_xy(), each.get_y() + each.get_height()
            found[top, bottom, left, left + each.get_width()] = each.get_alpha() or 1.0
    return found


def test_a_figure_shades_the_routed_regions_by_rank_and_outlines_the_query() -> None:
    plan = planted.planned(Grid((7, 10), (3, 4)), 5, np.random.default_rng(3))
    layer, x = planted.layer(plan)
    found = visual.attention_map(layer, x, (4, 5))
    figure = visual.draw(np.zeros((7, 10)), found, "planted")
    region = int(planted.region_of(plan.grid)[5, 4])
    where = [np.argwhere(planted.region_of(plan.grid) == r) for r in range(12)]
    edges = [(*(i.min(0)[0], i.max(0)[0] + 1), *(i.min(0)[1], i.max(0)[1] + 1)) for i in where]
    shaded = boxes_of(figure, ROUTED, filled=True)
    want = {edges[routed]: shade(rank, 5) for rank, routed in enumerate(plan.routes[region])}
    assert shaded == pytest.approx(want)
    assert list(shaded.values()) == sorted(shaded.values(), reverse=True)
    assert set(boxes_of(figure, QUERY, filled=False)) == {edges[region], (5, 6, 4, 5)}


def bright(figure: Figure) -> NDArray[np.float64]:
    """The second picture in pixels of the screen: how bright each is."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = np.asarray(canvas.buffer_rgba(), np.float64)[..., :3].sum(-1)
    box = figure.axes[1].get_window_extent()
    height = whole.shape[0]
    inside: NDArray[np.float64] = whole[
        height - int(box.y1) + 1 : height - int(box.y0) - 1, int(box.x0) + 1 : int(box.x1) - 1
    ]
    return inside


def test_the_heat_map_is_bright_where_attention_goes() -> None:
    plan = planted.planned(Grid((6, 9), (2, 3)), 2, np.random.default_rng(1))
    layer, x = planted.layer(plan)
    found = visual.attention_map(layer, x, (0, 0))
    shown = bright(visual.draw(np.zeros((6, 9, 3), np.uint8), found))
    side = shown.shape[1] / 9
    centres = [
        [shown[int((i + 0.5) * side), int((j + 0.5) * side)] for j in range(9)] for i in range(6)
    ]
    lit = {(int(i), int(j)) for i, j in np.argwhere(np.array(centres) > 300)}
    assert lit == plan.lit(0)


@pytest.mark.parametrize("size", [(40, 64), (77, 61)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stage", [1, 2])
def test_pictures_of_any_size_are_drawn(size: tuple[int, int], channels: int, stage: int) -> None:
    model = BiFormer(BiFormerConfig(**{**CONFIG.to_dict(), "in_chans": channels}))
    found = visual.attention_map(model, torch.rand(1, channels, *size), (60, 39), stage)
    figure = visual.draw(np.random.default_rng(0).random((*size, channels)), found)
    FigureCanvasAgg(figure).draw()
    with pytest.raises(
        ShapeError, match=r"expected a picture of \(\d+, \d+\) pixels, got \(3, 3\)"
    ):
        visual.draw(np.zeros((3, 3)), found)
    with pytest.raises(ShapeError, match=r"expected a picture \(H, W\), .* got \(3, 40, 64\)"):
        visual.draw(np.zeros((3, 40, 64)), found)
