"""Criss-cross attention of CCNet (Huang et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last, convolved


def criss_cross(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Each token attends to its row and its column at once, in one softmax, in which it counts
    once itself. ``(N, H, W, M, D)``; values may have another D."""
    height, width = q.shape[1:3]
    rows = [x.transpose(2, 3) for x in (q, k, v)]  # (N, H, M, W, D)
    columns = [x.permute(0, 2, 3, 1, 4) for x in (q, k, v)]  # (N, W, M, H, D)
    of_row, of_column = (a @ b.transpose(-1, -2) * scale for a, b, _ in (rows, columns))
    itself = torch.eye(height, dtype=torch.bool, device=q.device)
    of_column = of_column.masked_fill(itself, -torch.inf)
    scores = torch.cat((of_row.transpose(2, 3), of_column.permute(0, 3, 1, 2, 4)), -1)
    to_row, to_column = scores.softmax(-1).split((width, height), -1)  # (N, H, W, M, W or H)
    from_row = to_row.transpose(2, 3) @ rows[2]
    from_column = to_column.permute(0, 2, 3, 1, 4) @ columns[2]
    return from_row.transpose(2, 3) + from_column.permute(0, 3, 1, 2, 4)


class CrissCrossAttention(nn.Module):
    """Each token attends to the tokens of its row and its column.

    In CCNet this is one head without a scale on few channels, which a segmentation head applies
    twice; in the layout it is a usual multi-head attention, applied once in a block.

    Tokens are ``(N, H, W, dim)``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in self.qkv(x).chunk(3, -1))
        return self.proj(criss_cross(q, k, v, q.shape[-1] ** -0.5).flatten(3))


class CCNetAttention(nn.Module):
    """The module of CCNet on ``(N, C, H, W)``, with its residual: one head, queries and keys of an
    eighth of the channels. The comparison has :class:`CrissCrossAttention`; this one is what golden
    numbers are of."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_conv = nn.Conv2d(dim, dim // 8, 1)
        self.key_conv = nn.Conv2d(dim, dim // 8, 1)
        self.value_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = channels_last(x)
        convs = (self.query_conv, self.key_conv, self.value_conv)
        q, k, v = (convolved(conv, tokens)[..., None, :] for conv in convs)
        return self.gamma * channels_first(criss_cross(q, k, v, 1.0).squeeze(3)) + x
