"""CUDA streams between torch and other libraries."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from bilevel.protocol import Stream


def stream(x: Tensor) -> Stream | None:
    """The current stream of the device of ``x``, and torch's memory for it."""
    if x.device.type != "cuda":
        return None
    current = torch.cuda.current_stream(x.device)

    def malloc(size: int, device: int) -> int:
        return torch.cuda.caching_allocator_alloc(size, device, current)

    def free(pointer: int, device: int) -> None:
        torch.cuda.caching_allocator_delete(pointer)  # type: ignore[no-untyped-call]

    return Stream(current.device_index, current.cuda_stream, malloc, free)


def on(stream: Stream) -> AbstractContextManager[object]:
    """Makes a stream of another library torch's current one."""
    theirs = torch.cuda.ExternalStream(stream.pointer, stream.device)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(theirs)
