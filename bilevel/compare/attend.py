"""Multi-head attention on sets of tokens, in which most mixers end."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(..., T, M * D)`` to ``(..., M, T, D)``."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """The inverse of :func:`split_heads`."""
    return x.transpose(-3, -2).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Each token of ``q`` attends to all of ``k`` in the same set, with scale ``D**-0.5``.

    ``q`` is ``(B, T, C)`` and ``k``, ``v`` are ``(B, L, C)``, for B sets; the result has the shape
    of ``q``. ``bias``, which is added to the scaled scores, is ``(1 or B, M, T, L)``.
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
