"""Arrays with margins that show whether a kernel read or wrote beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

MARGIN = 4096
"""Numbers on either side of an array."""

CANARY = {torch.float32: 12345.0, torch.float16: 12345.0, torch.bfloat16: 12352.0}


class Margins:
    """Memory with canaries around it."""

    def __init__(self) -> None:
        self.buffers: list[tuple[Tensor, int]] = []

    def empty(self, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Stands in for :func:`bilevel_triton.memory.empty`: floats are NaN until written."""
        size = prod(shape)
        canary = CANARY.get(dtype, 12345)
        buffer = torch.full((size + 2 * MARGIN,), canary, dtype=dtype)
        inside = buffer[MARGIN : MARGIN + size]
        if dtype.is_floating_point:
            inside.fill_(torch.nan)
        self.buffers.append((buffer, size))
        return inside.view(shape)

    @contextmanager
    def unread(self, *arrays: Tensor) -> Iterator[None]:
        """Kernels read from the arrays and from memory of their own alone, even if they make no use
        of what they read: a GPU may end them for it."""
        load = InterpreterBuilder.create_masked_load

        def watched(
            builder: InterpreterBuilder, at: TensorHandle, mask: TensorHandle, *others: Any
        ) -> TensorHandle:
            own = (buffer[MARGIN : MARGIN + size] for buffer, size in self.buffers)
            read = at.data[mask.data]
            inside = np.zeros(read.shape, bool)
            for begin, end in map(addresses, (*arrays, *own)):
                inside |= (begin <= read) & (read < end)
            assert inside.all(), f"{(~inside).sum()} of {inside.size} reads are outside"
            return load(builder, at, mask, *others)

        with mock.patch.object(InterpreterBuilder, "create_masked_load", watched):
            yield

    def assert_untouched(self) -> None:
        for buffer, size in self.buffers:
            canary = CANARY.get(buffer.dtype, 12345)
            assert (buffer[:MARGIN] == canary).all()
            assert (buffer[MARGIN + size :] == canary).all()


def addresses(x: Tensor) -> tuple[int, int]:
    """The address of a tensor's first number, and that behind its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def amid_nan(x: Tensor) -> Tensor:
    """A copy with NaN on either side, and between its rows."""
    *shape, channels = x.shape
    buffer = torch.full((2 * MARGIN + prod(shape) * (channels + 3),), torch.nan, dtype=x.dtype)
    inside = buffer[MARGIN:-MARGIN].view(*shape, channels + 3)[..., :channels]
    return inside.copy_(x)
