"""How often the programs of a launch pass each of their loops, and how many bytes they move.

Where regions share a tile, and where keys wait for the queries that chose them, this follows from
the routes: here random ones, always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import ceil, prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

IMAGES = 8
"""Images that have random routes."""

Arguments: TypeAlias = Mapping[str, Any]
"""Those of a launch, by the names of the kernel's parameters."""


class Work(NamedTuple):
    """What the programs of one launch do, on average."""

    outer: tuple[float, ...] = (1.0,)
    """How often a program passes each outermost loop, in the order of the code; the last is for all
    that follow."""
    inner: tuple[float, ...] = ()
    """How often it passes a loop inside, by depth, each time it passes the one around it."""
    straight: float = 1.0
    """The part of the instructions outside loops that it executes."""
    programs: float | None = None
    """Programs that have work; the others end at once. None is all."""
    l2_bytes: float = 0.0
    """Bytes that all programs read and write together."""
    memory_bytes: float = 0.0
    """The same, with each number read or written once."""


class Side(NamedTuple):
    """Queries or keys, as a launch sees them."""

    tokens: int
    num_regions: int
    region_tokens: int


def work(kernel: str, arguments: Arguments) -> Work:
    """That of one launch of a kernel."""
    return KERNELS[kernel](arguments)


def side(spatial: tuple[int, ...], regions: tuple[int, ...]) -> Side:
    """One side by its tokens and its regions on each axis."""
    extents = (ceil(n / r) for n, r in zip(spatial, regions, strict=True))
    return Side(prod(spatial), prod(regions), prod(extents))


@cache
def routed(q_regions: int, k_regions: int, topk: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which query region is routed to which key region, ``(IMAGES, q_regions, k_regions)``."""
    order = np.random.default_rng(0).random((IMAGES, q_regions, k_regions)).argsort(-1)
    return order.argsort(-1) < topk


def list_lengths(
    hits: np.ndarray[Any, np.dtype[np.bool_]], group_size: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The lengths of the block lists of groups of rows, ``(IMAGES, groups)``: the columns that any
    row of the group hits."""
    starts = np.arange(0, hits.shape[1], group_size)
    return np.logical_or.reduceat(hits, starts, axis=1).sum(-1)


def of_queries(kept: int, streamed: int, numbers: int) -> Callable[[Arguments], Work]:
    """The work of a kernel that keeps tiles of queries: of so many maps, and of so many float32
    numbers a query and head; and that streams so many maps of keys."""

    def found(arguments: Arguments) -> Work:
        queries, keys, hits = _call(arguments)
        return _attention(arguments, queries, keys, hits, (kept, streamed), (numbers, 0))

    return found


def of_keys(kept: int, streamed: int, numbers: int) -> Callable[[Arguments], Work]:
    """The same with queries for keys. Chunks of a list are taken for one program: there are few
    with more than one."""

    def found(arguments: Arguments) -> Work:
        queries, keys, hits = _call(arguments)
        turned = hits.swapaxes(1, 2)
        return _attention(arguments, keys, queries, turned, (kept, streamed), (0, numbers))

    return found


def _call(arguments: Arguments) -> tuple[Side, Side, np.ndarray[Any, np.dtype[np.bool_]]]:
    shape, regions = arguments["shape"], arguments["META"].regions
    queries, keys = map(side, shape.spatial, regions)
    return queries, keys, routed(queries.num_regions, keys.num_regions, shape.topk)


def _attention(
    arguments: Arguments,
    kept: Side,
    passed: Side,
    hits: np.ndarray[Any, np.dtype[np.bool_]],
    maps: tuple[int, int],
    numbers: tuple[int, int],
) -> Work:
    """``maps`` and ``numbers`` are those of the side that is kept, and of the one that passes."""
    meta, q = arguments["META"], arguments["q"].ptr
    lengths = list_lengths(hits, meta.group_size)
    tiles = 1 if meta.group_size > 1 else ceil(kept.region_tokens / meta.stationary_rows)
    if meta.regions_per_step > 1:
        steps = np.ceil(lengths / meta.regions_per_step)
    else:
        steps = lengths * ceil(passed.region_tokens / meta.streamed_rows)
    images_and_heads = q.shape[0] * q.shape[-2]
    own, other = (
        images_and_heads * (count * meta.head_dim * q.element_size() + 4 * number)
        for count, number in zip(maps, numbers, strict=True)
    )
    streamed = lengths.sum(1).mean() * passed.region_tokens * tiles
    return Work(
        outer=(float(steps.mean()),),
        programs=float(images_and_heads * lengths.shape[1] * tiles),
        l2_bytes=float(own * kept.tokens + other * streamed),
        memory_bytes=float(own * kept.tokens + other * passed.tokens),
    )


def _means(arguments: Arguments) -> Work:
    """Queries and keys have each their own code, and half of the programs."""
    meta, q = arguments["META"], arguments["q"].ptr
    sides = [side(*each) for each in zip(arguments["spatial"], meta.regions, strict=True)]
    steps = np.mean([ceil(each.region_tokens / meta.tile_rows) for each in sides])
    half = float(steps) / 2
    tokens = sum(each.tokens for each in sides)
    means = sum(each.num_regions for each in sides) * meta.padded_channels * 4
    moved = float(q.shape[0] * (tokens * meta.num_channels * q.element_size() + means))
    return Work(outer=(half,), straight=0.5, l2_bytes=moved, memory_bytes=moved)


def _choice(arguments: Arguments) -> Work:
    """A loop over channels, and one over routes, if there are several."""
    meta, shape = arguments["META"], arguments["shape"]
    images = arguments["index"].shape[0]
    row = 4 * shape.padded_channels
    routes = 12 * shape.q_regions * shape.topk
    keys = shape.k_regions * row
    tiles = ceil(shape.q_regions / meta.tile_rows)
    return Work(
        outer=(shape.padded_channels / meta.tile_channels, float(shape.topk)),
        l2_bytes=float(images * (shape.q_regions * row + routes + tiles * keys)),
        memory_bytes=float(images * (shape.q_regions * row + routes + keys)),
    )


def _lists(arguments: Arguments) -> Work:
    """A loop over candidates, in it one over routes, in it one over the group's regions."""
    meta, routes = arguments["META"], arguments["routes"]
    candidates = arguments.get("num_kv_regions", routes.num_regions)
    bytes_of_routes = float(routes.table.numel() * routes.table.element_size())
    return Work(
        outer=(float(ceil(candidates / meta.candidates_per_step)),),
        inner=(float(ceil(routes.topk / meta.routes_per_step)), float(meta.group_size)),
        l2_bytes=bytes_of_routes * arguments["num_groups"],
        memory_bytes=bytes_of_routes,
    )


def _partials(_: Arguments) -> Work:
    """Hardly any random list has chunks."""
    return Work(programs=0.0)


KERNELS: dict[str, Callable[[Arguments], Work]] = {
    "average_regions": _means,
    "choose_regions": _choice,
    "list_kv_blocks": _lists,
    "attend": of_queries(kept=2, streamed=2, numbers=1),
    "gradient_of_queries": of_queries(kept=4, streamed=2, numbers=2),
    "count_q_blocks": _lists,
    "list_q_blocks": _lists,
    "gradient_of_keys": of_keys(kept=4, streamed=2, numbers=2),
    "add_partials": _partials,
}
"""The work of each kernel."""
