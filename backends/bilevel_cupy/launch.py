"""How a kernel of the operator is launched: its tiles, its shared memory, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bilevel.grid import Grid
from bilevel_cupy.call import Call
from bilevel_cupy.kernels import kernel
from bilevel_cupy.tiles import Tiles, padded, streamed_rows, tiles

WARP = 32
"""Threads of a warp."""
DEFAULT_SHARED_BYTES = 48 << 10
"""Most bytes of shared memory that a kernel has without asking for more."""


@dataclass(frozen=True)
class TiledKernel:
    """A kernel with stationary tiles of one side of a call, which streams the other."""

    call: Call
    keys_stationary: bool
    backward: bool

    @property
    def stationary(self) -> Grid:
        return self.call.k_grid if self.keys_stationary else self.call.q_grid

    @property
    def streamed(self) -> Grid:
        return self.call.q_grid if self.keys_stationary else self.call.k_grid

    @property
    def mean_blocks(self) -> float:
        """The regions that a stationary one streams, on average."""
        call = self.call
        return call.q_grid.num_regions * call.topk / self.stationary.num_regions

    @cached_property
    def tiles(self) -> Tiles:
        channels, itemsize = padded(self.call.channels), self.call.q.itemsize
        return tiles(self.stationary, self.streamed, self.mean_blocks, channels, itemsize)

    @cached_property
    def streamed_rows(self) -> int:
        mean_rows = self.mean_blocks * self.streamed.region_tokens
        channels, itemsize = padded(self.call.channels), self.call.q.itemsize
        return streamed_rows(mean_rows, channels, itemsize, backward=self.backward)

    def launch(self, xp: Any, name: str, *arguments: Any, flags: tuple[bool, ...] = ()) -> None:
        """Queue it on CuPy's current stream; ``flags`` are the last arguments of its template."""
        call, tiles = self.call, self.tiles
        channels = padded(call.channels)
        chosen = (call.cuda_type, channels, self.streamed_rows, *(str(x).lower() for x in flags))
        run = kernel(xp, f"{name}<{', '.join(map(str, chosen))}>")
        shared = self._shared_bytes(channels)
        if shared > DEFAULT_SHARED_BYTES:
            run.max_dynamic_shared_size_bytes = shared
        blocks = call.images * tiles.per_image * call.heads
        run((blocks,), (WARP * tiles.warps,), arguments, shared_mem=shared)

    def _shared_bytes(self, channels: int) -> int:
        """The shared memory of a thread block: rows of one or two stationary arrays and, for two
        steps, of two streamed ones; tokens and group masks; and some numbers for each row."""
        rows, streamed = self.tiles.rows, self.streamed_rows
        arrays = 1 + self.backward
        row_bytes = channels * self.call.q.itemsize + 16
        numbers = (1 + 2 * self.keys_stationary) * np.dtype(self.call.accum_dtype).itemsize
        tokens = 4 * rows + 2 * 12 * streamed
        return row_bytes * (arrays * rows + 4 * streamed) + tokens + numbers * streamed + 16
