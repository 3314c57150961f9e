"""Memory that kernels write to: all of it comes from here, so that tests can watch its margins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """On the device of another tensor, in row-major order."""
    return torch.empty(shape, dtype=dtype, device=like.device)
