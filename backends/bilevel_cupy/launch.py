"""The kernels of a call, launched one after the other on CuPy's current stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from bilevel.grid import Grid
from bilevel.protocol import Array
from bilevel_cupy.call import Call, axes_by_value
from bilevel_cupy.kernels import kernel
from bilevel_cupy.tiles import Tiles, padded, tiles, walked_rows

WARP = 32
BLOCK = 128
"""Threads of a block, where it does not matter."""
PLAIN_SHARED = 48 << 10
"""Bytes of shared memory that a block may have without asking."""


class Tables(NamedTuple):
    """The tokens of the regions of queries and of keys, int32 ``(R, T)``; -1 where a place has
    none."""

    q: Array
    k: Array


class Walks(NamedTuple):
    """What tiles walk over, as ``kernels/walk.cuh`` reads it."""

    regions: Array
    members: Array
    spans: Array


@dataclass(frozen=True)
class Kernel:
    """A kernel that keeps tiles of one side of a call and walks over the other."""

    call: Call
    of_keys: bool
    backward: bool

    @property
    def kept(self) -> Grid:
        return self.call.k_grid if self.of_keys else self.call.q_grid

    @property
    def walked(self) -> Grid:
        return self.call.q_grid if self.of_keys else self.call.k_grid

    @property
    def routes(self) -> float:
        """How many regions one that is kept is routed together with, on average."""
        call = self.call
        entries = call.q_grid.num_regions * call.topk
        return entries / self.kept.num_regions

    @cached_property
    def tiles(self) -> Tiles:
        return tiles(
            self.kept, self.walked, self.routes, padded(self.call.channels), self.call.q.itemsize
        )

    @cached_property
    def rows(self) -> int:
        walk = self.routes * self.walked.region_tokens
        channels, itemsize = padded(self.call.channels), self.call.q.itemsize
        return walked_rows(walk, channels, itemsize, backward=self.backward)

    def launch(self, xp: Any, name: str, *arguments: Any, flags: str = "") -> None:
        """``flags`` are what the kernel's template takes after the numbers."""
        call, tiles = self.call, self.tiles
        channels = padded(call.channels)
        run = kernel(xp, f"{name}<{call.number}, {channels}, {self.rows}{flags}>")
        shared = self._shared_bytes(channels, 1 + self.backward)
        if shared > PLAIN_SHARED:
            run.max_dynamic_shared_size_bytes = shared
        blocks = call.images * tiles.per_image * call.heads
        run((blocks,), (WARP * tiles.warps,), arguments, shared_mem=shared)

    def _shared_bytes(self, channels: int, kept: int) -> int:
        """What the kernel takes of shared memory: rows of the arrays that it keeps and, twice, of
        two that it walks over; tokens and members; and some numbers for each row."""
        itemsize, lanes, rows = self.call.q.itemsize, self.tiles.lanes, self.rows
        row = channels * itemsize + 16
        sums = (1 + 2 * self.of_keys) * rows * np.dtype(self.call.sum_dtype).itemsize
        return row * (kept * lanes + 4 * rows) + 4 * lanes + 2 * 12 * rows + sums + 16


def token_tables(xp: Any, call: Call) -> Tables:
    """Computed on the device, at each call: what is kept may be in use on another stream."""
    q_table = _token_table(xp, call.q_grid)
    same = call.k_grid == call.q_grid
    return Tables(q_table, q_table if same else _token_table(xp, call.k_grid))


def _token_table(xp: Any, grid: Grid) -> Array:
    regions, places = grid.num_regions, grid.region_tokens
    table = xp.empty((regions, places), dtype=np.int32)
    arguments = (table, axes_by_value(grid), np.int32(regions), np.int32(places))
    kernel(xp, "list_tokens")((ceil(regions * places / BLOCK),), (BLOCK,), arguments)
    return table


def forward(xp: Any, call: Call, tables: Tables) -> tuple[Array, Array]:
    """``out`` ``(N, *spatial, M, Dv)`` and the logarithm to base 2 of the softmax's denominator,
    ``(N, M, tokens)``."""
    out = xp.empty((*call.q.shape[:-1], call.v.shape[-1]), dtype=call.q.dtype)
    rows = (call.images, call.heads, prod(call.q_grid.spatial))
    lse = xp.empty(rows, dtype=call.sum_dtype)
    attend = Kernel(call, of_keys=False, backward=False)
    walks = _walks_of_queries(xp, attend)
    attend.launch(
        xp,
        "attend",
        *(call.q, call.k, call.v, out, lse, *tables, *walks),
        call.by_value(attend.tiles, out=out),
    )
    return out, lse


def backward(
    xp: Any, call: Call, tables: Tables, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""
    delta = xp.empty(lse.shape, dtype=lse.dtype)
    d_q, d_k, d_v = (xp.empty(x.shape, dtype=x.dtype) for x in (call.q, call.k, call.v))
    of_queries = Kernel(call, of_keys=False, backward=True)
    of_queries.launch(
        xp,
        "gradient_of_queries",
        *(call.q, call.k, call.v, out, d_out, lse, delta, d_q, *tables),
        *_walks_of_queries(xp, of_queries),
        call.by_value(of_queries.tiles, out=out, d_out=d_out, d_q=d_q),
    )
    of_keys = Kernel(call, of_keys=True, backward=True)
    walks = _walks_of_keys(xp, of_keys)
    # Sums of float64 for both do not fit the registers.
    each = call.q.itemsize == 8 and padded(call.channels) == 128
    for flags in (", true, false", ", false, true") if each else (", true, true",):
        of_keys.launch(
            xp,
            "gradient_of_keys",
            *(call.q, call.k, call.v, d_out, lse, delta, d_k, d_v, *tables, *walks),
            call.by_value(of_keys.tiles, d_out=d_out, d_k=d_k, d_v=d_v),
            flags=flags,
        )
    return d_q, d_k, d_v


def _walks_of_queries(xp: Any, of: Kernel) -> Walks:
    """Regions that are alone in their tiles walk over their routes."""
    index = of.call.index
    if of.tiles.group == 1:
        return Walks(index, index, index)
    return _walks(xp, of, index, of.tiles.per_image)


def _walks_of_keys(xp: Any, of: Kernel) -> Walks:
    index, group = of.call.index, of.tiles.group
    groups = ceil(of.kept.num_regions / group)
    counts = xp.empty((of.call.images, groups), dtype=np.int32)
    sizes = (of.walked.num_regions, of.call.topk, group, groups)
    blocks = (of.call.images * groups,)
    kernel(xp, "count_walks")(blocks, (WARP,), (index, counts, *map(np.int32, sizes)))
    return _walks(xp, of, counts, groups)


def _walks(xp: Any, of: Kernel, counts: Array, groups: int) -> Walks:
    index = of.call.index
    regions, members = (xp.empty(index.shape, dtype=x) for x in (np.int32, np.uint32))
    spans = xp.empty((of.call.images, groups, 2), dtype=np.int32)
    queries = of.call.q_grid.num_regions
    sizes = (queries, of.call.topk, of.walked.num_regions, of.tiles.group, groups)
    arguments = (index, counts, regions, members, spans, *map(np.int32, sizes))
    of_keys = "true" if of.of_keys else "false"
    blocks = (of.call.images * groups,)
    kernel(xp, f"list_walks<{of_keys}>")(blocks, (WARP,), arguments)
    return Walks(regions, members, spans)
