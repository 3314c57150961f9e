"""Sliding-window attention (stand-alone self-attention, Ramachandran et al., NeurIPS 2019), in the
form of neighbourhood attention (Hassani et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend


class SlidingAttention(nn.Module):
    """Each token attends to the ``kernel`` x ``kernel`` tokens around it.

    At a border the papers differ: the first pads with zeros, which take part in the softmax; the
    second moves the window inside the map, so that every token has as many keys. This is the
    second. A learned bias for each offset, as in the second's published models.

    Tokens are ``(N, H, W, dim)``; an axis with fewer tokens than ``kernel`` is attended to
    as a whole.
    """

    def __init__(self, dim: int, heads: int, kernel: int = 7) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.rpb = nn.Parameter(torch.zeros(heads, 2 * kernel - 1, 2 * kernel - 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, dim = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        rows, columns = (self._neighbours(length, x.device) for length in (height, width))
        bias = self.rpb[:, _offset(rows, self.kernel)][..., _offset(columns, self.kernel)]
        # (M, H, kernel, W, kernel), to a query for each place of the map
        bias = bias.permute(1, 3, 0, 2, 4).reshape(height * width, self.heads, 1, -1)
        near_k, near_v = (
            y[:, rows[:, None, :, None], columns[None, :, None]].reshape(
                n * height * width, -1, dim
            )
            for y in (k, v)
        )
        out = attend(q.reshape(-1, 1, dim), near_k, near_v, self.heads, bias.repeat(n, 1, 1, 1))
        return self.proj(out.reshape(x.shape))

    def _neighbours(self, length: int, device: torch.device) -> Tensor:
        """The places on an axis that each place attends to: ``(length, kernel)``."""
        kernel = min(self.kernel, length)
        place = torch.arange(length, device=device)
        first = (place - kernel // 2).clamp(0, length - kernel)
        return first[:, None] + torch.arange(kernel, device=device)


def _offset(neighbours: Tensor, kernel: int) -> Tensor:
    """The offsets of neighbours from their places, counted from 0."""
    return (
        neighbours - torch.arange(len(neighbours), device=neighbours.device)[:, None] + kernel - 1
    )
