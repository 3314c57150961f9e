"""What tests put in the place of CUDA, of an H200 and of compiled FlexAttention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel.bench.roofline import Gpu
from bilevel.bench.shapes import Shape

H200 = Gpu("NVIDIA H200", (9, 0), 132, 1_830_000_000, 4_800_000_000_000, 50 * 2**20)
"""With the rates of its data sheet."""

SMALL = Shape(2, 16, 4, 3, 2, head_dim=16)


def by_mask(
    q: Tensor, k: Tensor, v: Tensor, block_mask: Any, kernel_options: dict[str, int] | None
) -> Tensor:
    """FlexAttention by a dense mask."""
    size = block_mask.BLOCK_SIZE[0]
    assert kernel_options is not None
    assert set(kernel_options.values()) == {size}
    blocks = block_mask.to_dense().bool()
    tokens = blocks.repeat_interleave(size, -1).repeat_interleave(size, -2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=tokens)


class Cuda:
    """Stands in for CUDA: events that tell the work between them, graphs that count replays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.captured, self.replayed = 0.0, 0, 0
        self.peak = 0
        replacements = {
            "Event": partial(Event, self),
            "Stream": Stream,
            "current_stream": Stream,
            "stream": nullcontext,
            "CUDAGraph": partial(Graph, self),
            "graph": self.capturing,
            "graph_pool_handle": lambda: "pool",
            "synchronize": lambda: None,
            "memory_allocated": lambda: 100,
            "reset_peak_memory_stats": lambda: None,
            "max_memory_allocated": lambda: self.peak,
        }
        for name, value in replacements.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def capturing(self, graph: Graph, pool: str) -> Iterator[None]:
        assert pool == "pool"
        self.captured += 1
        yield


class Event:
    def __init__(self, cuda: Cuda, enable_timing: bool) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.cuda.clock += 1.0
        self.at = self.cuda.clock

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Stream:
    def wait_stream(self, stream: Stream) -> None:
        pass


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def replay(self) -> None:
        self.cuda.replayed += 1
        self.cuda.clock += 6.0
