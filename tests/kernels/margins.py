"""Arrays with margins that show whether a kernel read or wrote beside them."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

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

    def assert_untouched(self) -> None:
        for buffer, size in self.buffers:
            canary = CANARY.get(buffer.dtype, 12345)
            assert (buffer[:MARGIN] == canary).all()
            assert (buffer[MARGIN + size :] == canary).all()


def amid_nan(x: Tensor) -> Tensor:
    """A copy with NaN on either side, and between its rows."""
    *shape, channels = x.shape
    buffer = torch.full((2 * MARGIN + prod(shape) * (channels + 3),), torch.nan, dtype=x.dtype)
    inside = buffer[MARGIN:-MARGIN].view(*shape, channels + 3)[..., :channels]
    return inside.copy_(x)
