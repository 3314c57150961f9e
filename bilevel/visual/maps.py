"""Where a model routes to and what it attends to, as arrays of NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bilevel import ops
from bilevel.arguments import count
from bilevel.errors import ShapeError
from bilevel.grid import Grid
from bilevel.host import to_numpy
from bilevel.protocol import Array
from bilevel.visual.watching import Seen, itself, watch

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockRoutes:
    """Which regions each region of one block attends to."""

    index: Integers
    """Key regions ``(N, R, k)``, best first. Where attention is full: one region, ``(N, 1, 1)``."""
    score: Floats | None
    """Routing scores ``(N, R, k)``; None where attention is full."""
    grid: Grid
    """The regions. With official padding, its spatial axes have more tokens than the map."""
    tokens: tuple[int, ...]
    """Tokens of the map on each spatial axis."""
    stride: int
    """Pixels of the image for each token, on an axis; 1 for a bare layer."""

    @property
    def full(self) -> bool:
        """Whether every token attends to every token."""
        return self.score is None

    def region_map(self) -> Integers:
        """The region of each token, of the shape ``tokens``."""
        return self._places()[0]

    def token_map(self) -> Integers:
        """The number of each token in its region, of the shape ``tokens``."""
        return self._places()[1]

    def boxes(self) -> Integers:
        """First and last place of each region on each axis, in tokens of the map, ``(R, axes, 2)``,
        the last excluded; both are the same where a region is nothing but padding."""
        bounds = [
            np.minimum([[i * n // s, (i + 1) * n // s] for i in range(s)], size)
            for n, s, size in zip(self.grid.spatial, self.grid.regions, self.tokens, strict=True)
        ]
        rows = np.indices(self.grid.regions).reshape(self.grid.ndim, -1)
        return np.stack([b[row] for b, row in zip(bounds, rows, strict=True)], axis=1)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the tokens of each region, ``(R, T)``, on the map, of the shape ``tokens``."""
        rows = np.asarray(values, np.float64)[None, :, :, None, None]
        whole = ops.merge(rows, self.grid)[0, ..., 0, 0]
        return whole[tuple(map(slice, self.tokens))]

    def _places(self) -> tuple[Integers, Integers]:
        shape = self.grid.num_regions, self.grid.region_tokens
        place = self.spread(np.arange(shape[0] * shape[1]).reshape(shape)).astype(np.int64)
        return place // shape[1], place % shape[1]


class AttentionMap(NamedTuple):
    """What one token of an image attends to."""

    weights: Floats
    """For each token of the map ``(h, w)``, the weight that the query gives it: zero outside the
    routed regions. They add up to 1, or less where padding is attended to (official padding)."""
    query: tuple[int, int]
    """Row and column of the query's token."""
    region: int
    """The region of the query."""
    routes: BlockRoutes
    """Of all regions, for this one image."""
    size: tuple[int, int]
    """Height and width of the image, in pixels."""

    @property
    def routed(self) -> tuple[int, ...]:
        """The regions that the query's region is routed to, best first."""
        return tuple(self.routes.index[0, self.region].tolist())

    def pixels(self) -> Floats:
        """The weights for each pixel of the image ``(H, W)``: that of the token it belongs to."""
        rows, columns = (
            token_of(np.arange(n), self.routes.stride, tokens)
            for n, tokens in zip(self.size, self.weights.shape, strict=True)
        )
        return self.weights[np.ix_(rows, columns)]


def token_of(pixel: Any, stride: int, tokens: int) -> Any:
    """The token that a pixel belongs to, on one axis. The last token has what is left over."""
    return np.minimum(np.asarray(pixel) // stride, tokens - 1)


def routes(model: Any, images: Array) -> list[list[BlockRoutes]]:
    """The routes of each block of each stage, with the grid of its regions.

    One pass through the model, without gradients; the model, its modes and all random states stay
    as they are, and no hook is left.

    Parameters
    ----------
    model
        A :class:`~bilevel.models.BiFormer` or a :class:`~bilevel.models.Backbone`, in any mode,
        what :func:`bilevel.models.bind` returns, or a bare layer, as
        :class:`bilevel.nn.BiLevelRoutingAttention`, which counts as one block of one stage.
    images
        ``(N, C, H, W)``, as the model takes them; for a layer, its input.

    Raises
    ------
    ArgumentError
        If it is no such model.
    ShapeError, ArrayError
        If the images are not what the model takes.

    Examples
    --------
    >>> import torch
    >>> from bilevel import models
    >>> model = models.biformer_tiny(num_classes=10)
    >>> found = routes(model, torch.zeros(1, 3, 224, 160))
    >>> found[2][-1].index.shape, found[2][-1].grid
    ((1, 49, 16), Grid(spatial=(14, 10), regions=(7, 7)))
    """
    return watch(model, images, routes_of)


def routes_of(seen: Seen) -> BlockRoutes:
    """The routes of what was seen of an attention."""
    score = None if seen.routes is None else seen.routes.score
    return BlockRoutes(
        to_numpy(seen.routed.index).astype(np.int64),
        None if score is None else to_numpy(score).astype(np.float64),
        seen.routed.k_grid,
        seen.tokens,
        seen.stride,
    )


def attention_map(
    model: Any,
    image: Array,
    at: tuple[int, int],
    stage: int | None = None,
    block: int = -1,
    head: int | None = None,
) -> AttentionMap:
    """What the token at a pixel attends to, over the whole image.

    Parameters
    ----------
    model
        As for :func:`routes`.
    image
        One image ``(1, C, H, W)``, as the model takes it; for a layer, its input of one map.
    at
        The pixel ``(x, y)``: column and row, from the upper left corner. A token covers ``stride``
        pixels on each axis: 4 in the first stage, then twice as many from stage to stage.
    stage
        From 1, as the paper counts; by default the last one that routes.
    block
        Of the stage: 0 is the first, -1 the last.
    head
        From 0; None is the mean over all heads.

    Raises
    ------
    ArgumentError
        If stage, block or head is not there, or the pixel is outside of the image.
    ShapeError
        If it is not one image.

    Examples
    --------
    >>> import torch
    >>> from bilevel import models
    >>> model = models.biformer_tiny(num_classes=10)
    >>> found = attention_map(model, torch.randn(1, 3, 224, 160), at=(120, 80), stage=3)
    >>> found.query, found.weights.shape, len(found.routed)
    ((5, 7), (14, 10), 16)
    >>> float(found.weights.sum().round(6))
    1.0
    """
    if image.shape[0] != 1:
        raise ShapeError(f"expected one image (1, C, H, W), got {tuple(image.shape)}")
    found = watch(model, image, itself)
    stage, block = place_of(found, stage, block)
    seen = found[stage][block]
    if len(seen.tokens) != 2:
        raise ShapeError(f"expected an image with two spatial axes, got {tuple(image.shape)}")
    size = image_size(model, image, seen)
    return at_pixel(seen, at, size, head)


def at_pixel(
    seen: Seen, at: tuple[int, int], size: tuple[int, int], head: int | None = None
) -> AttentionMap:
    """What the token at a pixel attends to, of what was seen of an attention of one image."""
    column, row = check_pixel(at, size)
    heads = seen.q.shape[-2]
    if head is not None:
        head = count("head", head, 0, heads - 1, f"of {heads} heads")
    found = routes_of(seen)
    query = tuple(
        int(token_of(pixel, seen.stride, tokens))
        for pixel, tokens in zip((row, column), seen.tokens, strict=True)
    )
    region, token = int(found.region_map()[query]), int(found.token_map()[query])
    weights = RegionWeights(seen)(region, slice(token, token + 1))[0]
    of_heads = weights.mean(0) if head is None else weights[head]
    values = np.zeros((found.grid.num_regions, found.grid.region_tokens))
    values[found.index[0, region]] = of_heads
    return AttentionMap(found.spread(values), (query[0], query[1]), region, found, size)


def check_pixel(at: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """A pixel ``(x, y)`` of an image of a height and width. Raises ArgumentError if it is none."""
    height, width = size
    why = "the pixels of the image"
    return count("at[0]", at[0], 0, width - 1, why), count("at[1]", at[1], 0, height - 1, why)


class RegionWeights:
    """The softmax weights of one image, region by region, in float64: of what was seen of an
    attention."""

    def __init__(self, seen: Seen) -> None:
        q, k = (to_numpy(x).astype(np.float64) for x in (seen.q, seen.k))
        self._queries = ops.partition(q, seen.routed.q_grid)[0]
        self._keys = ops.partition(k, seen.routed.k_grid)
        self._index = to_numpy(seen.routed.index).astype(np.int64)
        self._grid, self._scale = seen.routed.k_grid, seen.routed.scale

    def __call__(self, region: int, tokens: slice = slice(None)) -> Floats:
        """Those of tokens of a region, ``(tokens, M, k, T)``: for each head, the T tokens of each
        of the k routed regions, zero where they are padding."""
        index = self._index[:, region : region + 1]
        keys = ops.gather(self._keys, index)[0, 0]
        scores = np.einsum("tmd,lmd->tml", self._queries[region, tokens], keys) * self._scale
        scores = np.where(ops.key_mask(index, self._grid)[0, 0], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return weights.reshape(*weights.shape[:2], index.shape[-1], self._grid.region_tokens)


def place_of(found: list[list[Seen]], stage: int | None, block: int) -> tuple[int, int]:
    """Stage and block from 0, of what :func:`attention_map` takes."""
    if stage is None:
        routed = [i for i, blocks in enumerate(found, 1) if blocks[-1].routes is not None]
        stage = routed[-1] if routed else len(found)
    stage = count("stage", stage, 1, len(found), "the stages of the model")
    most = len(found[stage - 1])
    block = count("block", block, -most, most - 1, f"of {most} blocks of stage {stage}")
    return stage - 1, block % most


def image_size(model: Any, image: Array, seen: Seen) -> tuple[int, int]:
    """Height and width of an image; for a layer, those of its map."""
    height, width = seen.tokens if hasattr(model, "qkv") else image.shape[2:]
    return int(height), int(width)
