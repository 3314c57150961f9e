"""Deformable attention of DAT, in its first version (Xia et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last
from bilevel.compare.attend import attend
from bilevel.nn import depthwise


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of ``(N, C, H, W)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(self.norm(channels_last(x)))


class DeformableAttention(nn.Module):
    """All tokens attend to what is found at points of the map that move with its content.

    There is a point for each token. A small network moves it by at most ``reach / 2`` tokens, for
    each group of channels on its own; the input is read there, between tokens, and becomes keys and
    values. A table of learned biases is read in the same way, at the distance of a query from a
    point.

    Tokens are ``(N, *size, dim)``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        groups: int,
        size: tuple[int, int],
        kernel: int,
        reach: float = 2.0,
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.reach = heads, groups, size, reach
        self.rpe_table = nn.Parameter(torch.zeros(heads, 2 * size[0] - 1, 2 * size[1] - 1))
        part = dim // groups
        self.conv_offset = nn.Sequential(
            depthwise(part, kernel), ChannelNorm(part), nn.GELU(), nn.Conv2d(part, 2, 1, bias=False)
        )
        self.proj_q = nn.Conv2d(dim, dim, 1)
        self.proj_k = nn.Conv2d(dim, dim, 1)
        self.proj_v = nn.Conv2d(dim, dim, 1)
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_first(x)
        n, _, height, width = x.shape
        q = self.proj_q(x)
        points = self.points(q)
        found = _read(x.reshape(n * self.groups, -1, height, width), points).reshape(x.shape)
        q, k, v = (
            y.flatten(2).transpose(1, 2) for y in (q, self.proj_k(found), self.proj_v(found))
        )
        out = attend(q, k, v, self.heads, self._bias(points, n)).transpose(1, 2)
        return channels_last(self.proj_out(out.reshape(x.shape)))

    def points(self, q: Tensor) -> Tensor:
        """Where each group looks, ``(N * groups, H, W, 2)``: row, then column, in -1 to 1 from the
        first token to the last."""
        height, width = q.shape[2:]
        moves = self.conv_offset(q.reshape(len(q) * self.groups, -1, height, width)).tanh()
        step = torch.tensor([1 / height, 1 / width], dtype=q.dtype, device=q.device)
        return self.reference() + channels_last(moves) * self.reach * step

    def reference(self) -> Tensor:
        """The places of tokens, ``(H, W, 2)``, in the same unit."""
        like = self.rpe_table
        rows, columns = (
            (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * 2 / n - 1
            for n in self.size
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)

    def _bias(self, points: Tensor, n: int) -> Tensor:
        """The table at half the distance from each point to each query: ``(N, M, T, points)``."""
        queries = self.reference().reshape(1, -1, 1, 2)
        distance = (queries - points.reshape(n * self.groups, 1, -1, 2)) / 2
        table = self.rpe_table.unflatten(0, (self.groups, -1)).repeat(n, 1, 1, 1)
        return _read(table, distance).reshape(n, self.heads, *distance.shape[1:3])


def _read(maps: Tensor, points: Tensor) -> Tensor:
    """Maps ``(B, C, H, W)`` between their tokens, at ``(B, h, w, 2)``; zero outside."""
    return F.grid_sample(maps, points.flip(-1), align_corners=True)
