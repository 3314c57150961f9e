"""A page for browsers, in one file: move over an image, and its routes and its attention follow.

What the page does is written in ``page/page.js``; this module computes what it shows. The weights
are what takes room. For each query, the square root of each weight is a byte, of 255 for the
largest; where a file would be too large, blocks keep the mean over heads alone, or the weights of
some queries alone, the largest block first.
"""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ArgumentError, ShapeError
from bilevel.protocol import Array
from bilevel.visual.figures import as_rgb
from bilevel.visual.maps import RegionWeights, check_pixel, place_of, routes_of
from bilevel.visual.watching import Seen, itself, watch

MOST_BYTES = 3_000_000
"""Of a page."""


def page(
    model: Any,
    image: Array,
    picture: NDArray[Any],
    title: str = "",
    at: tuple[int, int] | None = None,
    stage: int | None = None,
    block: int = -1,
) -> str:
    """A page of HTML that needs nothing beside it, of less than 3 MB.

    Parameters
    ----------
    model
        A :class:`~bilevel.models.BiFormer`, or what :func:`bilevel.models.bind` returns.
    image
        One image ``(1, C, H, W)``, as the model takes it.
    picture
        The same as people see it: see :func:`draw`.
    title
        A line above.
    at, stage, block
        What is shown first, as :func:`attention_map` takes it; by default the middle of the image.

    Raises
    ------
    ArgumentError
        If an image is so large that no page of 3 MB holds its attention; or as
        :func:`attention_map` does.
    ShapeError
        If it is not one image, or the picture has another size.
    """
    shown = as_rgb(picture)
    if image.shape[0] != 1 or tuple(image.shape[2:]) != shown.shape[:2]:
        raise ShapeError(
            f"expected one image (1, C, H, W) of the picture's {shown.shape[:2]} pixels, got "
            f"{tuple(image.shape)}"
        )
    found = watch(model, image, itself)
    height, width = shown.shape[:2]
    column, row = check_pixel(at or (width // 2, height // 2), (height, width))
    stage, block = place_of(found, stage, block)
    content = {
        "size": (height, width),
        "picture": _data_url(shown),
        "start": {"stage": stage + 1, "block": block, "x": column, "y": row},
    }
    bare = _filled(title or "Routes and attention", {**content, "stages": []})
    stages = _within(found, MOST_BYTES - len(bare.encode()))
    return _filled(title or "Routes and attention", {**content, "stages": stages})


def _filled(title: str, content: dict[str, Any]) -> str:
    """The page with its style, its script and what it shows."""
    parts = files("bilevel.visual") / "page"
    read = {name: (parts / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    # What ends a script has to be written otherwise within one.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return Template(read["html"]).substitute(
        title=html.escape(title), style=read["css"], script=read["js"], data=data
    )


def _data_url(picture: NDArray[np.float64]) -> str:
    """A picture as PNG or as JPEG, whichever is smaller."""
    from PIL import Image

    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    made = {}
    for kind, how in (("png", {"optimize": True}), ("jpeg", {"quality": 90})):
        file = io.BytesIO()
        image.save(file, kind, **how)
        made[kind] = file.getvalue()
    kind = min(made, key=lambda kind: len(made[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(made[kind]).decode()}"


class Detail(NamedTuple):
    """How much of its weights a block keeps."""

    heads: bool = True
    """Whether each head's, beside the mean over heads."""
    every: int = 1
    """Of one query in so many, on each axis of a region."""

    def less(self) -> Detail:
        """The next step down."""
        return self._replace(heads=False) if self.heads else self._replace(every=2 * self.every)


def _within(found: list[list[Seen]], most: int) -> list[list[dict[str, Any]]]:
    """All blocks as the page takes them, together of ``most`` bytes at most."""
    places = [(i, j) for i, blocks in enumerate(found) for j in range(len(blocks))]
    details = dict.fromkeys(places, Detail())
    made = {place: block_data(found[place[0]][place[1]]) for place in places}
    lengths = {place: len(json.dumps(data)) for place, data in made.items()}
    while sum(lengths.values()) > most:
        i, j = largest = max(lengths, key=lambda place: lengths[place])
        if details[largest].every > max(made[largest]["region_shape"]):
            raise ArgumentError(
                f"expected an image whose attention a page of {MOST_BYTES} bytes holds; make the "
                "image smaller"
            )
        details[largest] = details[largest].less()
        made[largest] = block_data(found[i][j], details[largest])
        lengths[largest] = len(json.dumps(made[largest]))
    return [[made[i, j] for j in range(len(blocks))] for i, blocks in enumerate(found)]


def block_data(seen: Seen, detail: Detail = Detail()) -> dict[str, Any]:  # noqa: B008
    """One block as the page takes it."""
    block = routes_of(seen)
    weights = quantised(seen, detail)
    return {
        "stride": block.stride,
        "tokens": block.tokens,
        "boxes": block.boxes().tolist(),
        "routes": block.index[0].tolist(),
        "full": block.full,
        "region_shape": block.grid.region_shape,
        "every": detail.every,
        "slots": weights.shape[2],
        "weights": base64.b64encode(zlib.compress(weights.tobytes())).decode(),
    }


def quantised(seen: Seen, detail: Detail) -> NDArray[np.uint8]:
    """The weights of one image, ``(R, queries, slots, k, T)``: for some of the queries of each
    region, the mean over heads and then each head, in 255ths of the square root of the largest
    weight of that query."""
    grid = seen.routed.q_grid
    rows = np.arange(grid.region_tokens).reshape(grid.region_shape)
    kept = rows[:: detail.every, :: detail.every].ravel()
    weights_of = RegionWeights(seen)
    made = []
    for region in range(grid.num_regions):
        weights = weights_of(region)[kept]
        mean = weights.mean(1, keepdims=True)
        slots = np.concatenate([mean, weights], axis=1) if detail.heads else mean
        largest = slots.max((-2, -1), keepdims=True)
        made.append(np.rint(255 * np.sqrt(slots / largest)).astype(np.uint8))
    return np.stack(made)
