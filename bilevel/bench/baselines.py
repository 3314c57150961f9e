"""Full attention, which has no routes, and the mode in which torch's gather is deterministic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token attends to all tokens: ``(N, H, W, M, D)`` to the same, by torch, without a
    copy."""
    queries, keys, values = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(queries, keys, values)
    return out.transpose(1, 2).reshape(q.shape)


@contextmanager
def deterministic() -> Iterator[None]:
    """Use torch's deterministic algorithms, then restore all settings.

    torch would also fill new memory, as a help to find bugs; that is turned off.
    """
    variable = "CUBLAS_WORKSPACE_CONFIG"
    workspace = os.environ.get(variable)
    mode = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # its property is not among its types
    filled = memory.fill_uninitialized_memory
    try:
        os.environ[variable] = ":4096:8"  # else torch refuses matrix products on CUDA
        torch.set_deterministic_debug_mode("error")
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        if workspace is None:
            del os.environ[variable]
        else:
            os.environ[variable] = workspace
