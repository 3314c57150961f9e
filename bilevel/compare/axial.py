"""Axial attention (Ho et al., 2019), and the layer of Axial-DeepLab (Wang et al., ECCV 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend
from bilevel.compare.windows import relative_bias


class AxialAttention(nn.Module):
    """Each token attends to all tokens of its row, or of its column; two blocks in turn reach the
    whole map.

    Whether a block does one axis or both is left open by the papers: here one, so that a block has
    one set of projections as the others have. So is the position: a learned bias for each offset.

    Tokens are ``(N, H, W, dim)``; ``length`` is the number of tokens on the ``axis``.
    """

    def __init__(
        self, dim: int, heads: int, length: int, axis: Literal["row", "column"] = "row"
    ) -> None:
        super().__init__()
        self.heads, self.length, self.axis = heads, length, axis
        self.relative_position_bias_table = nn.Parameter(torch.zeros(heads, 1, 2 * length - 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        lines = x if self.axis == "row" else x.transpose(1, 2)
        q, k, v = self.qkv(lines).flatten(0, 1).chunk(3, -1)
        bias = relative_bias(self.relative_position_bias_table, (1, self.length))
        out = self.proj(attend(q, k, v, self.heads, bias).reshape(lines.shape))
        return out if self.axis == "row" else out.transpose(1, 2)


class PositionSensitiveAxialAttention(nn.Module):
    """The layer of Axial-DeepLab along one axis of ``(N, C, H, W)``.

    Queries and keys have half as many channels as values. Learned vectors for each offset are
    multiplied with queries and with keys, and the two products are added to the scores; others are
    added to the values. Batch normalisation stands in place of a scale. The comparison has the
    plain :class:`AxialAttention`; this one is what golden numbers are of.
    """

    def __init__(
        self, dim: int, groups: int, length: int, axis: Literal["height", "width"]
    ) -> None:
        super().__init__()
        self.groups, self.length, self.axis = groups, length, axis
        self.relative = nn.Parameter(torch.randn(2 * dim // groups, 2 * length - 1))
        self.qkv_transform = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.bn_qkv = nn.BatchNorm1d(2 * dim)
        self.bn_similarity = nn.BatchNorm2d(3 * groups)
        self.bn_output = nn.BatchNorm1d(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        lines = x.transpose(1, 3 if self.axis == "height" else 2)  # the other axis, then C
        if self.axis == "height":
            lines = lines.transpose(2, 3)
        n, others, dim, length = lines.shape
        half, whole = dim // self.groups // 2, dim // self.groups
        qkv = self.bn_qkv(self.qkv_transform(lines.flatten(0, 1)))
        q, k, v = qkv.unflatten(1, (self.groups, -1)).split((half, half, whole), 2)
        of_q, of_k, of_v = self._vectors().split((half, half, whole))
        scores = (
            torch.einsum("bgci,bgcj->bgij", q, k),
            torch.einsum("bgci,cij->bgij", q, of_q),
            torch.einsum("bgcj,cji->bgij", k, of_k),
        )
        scores = self.bn_similarity(torch.cat(scores, 1)).unflatten(1, (3, self.groups)).sum(1)
        weights = scores.softmax(-1)
        attended = torch.einsum("bgij,bgcj->bgci", weights, v)
        offsets = torch.einsum("bgij,cij->bgci", weights, of_v)
        both = torch.stack((attended, offsets), 3).reshape(-1, 2 * dim, length)
        out = self.bn_output(both).reshape(n, others, dim, 2, length).sum(3)
        return out.permute((0, 2, 3, 1) if self.axis == "height" else (0, 2, 1, 3))

    def _vectors(self) -> Tensor:
        """The learned vector of each pair of places on the axis: ``(channels, n, n)``."""
        place = torch.arange(self.length, device=self.relative.device)
        return self.relative[:, place[:, None] - place + self.length - 1]
