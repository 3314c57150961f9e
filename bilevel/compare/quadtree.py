"""QuadTree attention, types A and B (Tang et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last
from bilevel.compare.quadtree_levels import Best, Kind, coarsest, finer
from bilevel.errors import ShapeError
from bilevel.nn import depthwise


class QuadTreeAttention(nn.Module):
    """Tokens look over the whole map in coarse steps, and closer where a coarse look scored best.

    Queries and keys are averaged to a pyramid, whose coarsest map is attended to in full. Each
    token keeps its ``topk`` best keys, for each head. One level finer, its four children look at
    the four children of each of these alone, and so on. The messages of all levels are added.

    Type A shares the score of a chosen key among its children, and takes the message of a key from
    the finest level that looks at it. (With one level alone, the best keys are then lost, as in the
    official code.) Type B takes a message with a softmax of its own at each level, and weighs the
    levels; it learns how values get coarser, and adds a depthwise convolution of them (LePE).

    Tokens are ``(N, H, W, dim)``; H and W have to be multiples of ``2 ** (levels - 1)``.
    """

    def __init__(self, dim: int, heads: int, levels: int, kind: Kind, topk: int = 8) -> None:
        super().__init__()
        self.heads, self.levels, self.kind, self.topk = heads, levels, kind, topk
        self.q_proj = nn.Conv2d(dim, dim, 1)
        self.k_proj = nn.Conv2d(dim, dim, 1)
        self.v_proj = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        if kind == "B":
            self.py_att = LevelWeights(dim, levels)
            self.value_branchs = nn.ModuleList(_coarser_values(dim) for _ in range(levels - 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pyramids(channels_first(x))
        out: Tensor | None = None
        for i, (message, _) in enumerate(self.looks(maps)):
            value = maps[i][2]
            message = message.transpose(2, 3).reshape(value.shape)
            if self.kind == "B":
                message = self.py_att.weighted(i, message, value)
            if out is not None:
                message = message + F.interpolate(out, scale_factor=2, mode="nearest")
            out = message
        assert out is not None, "there is at least one level"
        return self.proj(channels_last(out))

    def pyramids(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries, keys and values ``(N, C, H, W)`` of each level, from the coarsest."""
        times = 2 ** (self.levels - 1)
        if x.shape[2] % times or x.shape[3] % times:
            raise ShapeError(
                f"expected a map whose height and width are multiples of {times}, for "
                f"{self.levels} levels, got {x.shape[2]} x {x.shape[3]}"
            )
        maps = [(self.q_proj(x), self.k_proj(x), self.v_proj(x))]
        for step in range(self.levels - 1):
            q, k, v = maps[-1]
            coarser = self.value_branchs[step](v) if self.kind == "B" else F.avg_pool2d(v, 2)
            maps.append((F.avg_pool2d(q, 2), F.avg_pool2d(k, 2), coarser))
        return maps[::-1]

    def looks(
        self, maps: list[tuple[Tensor, Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Best | None]]:
        """The message ``(N, M, T, D)`` of each level, and the best keys that the next one takes."""
        best: Best | None = None
        for i, level in enumerate(maps):
            q, k, v = (channels_last(x.unflatten(1, (self.heads, -1)).flatten(0, 1)) for x in level)
            q, k, v = (x.unflatten(0, (-1, self.heads)) for x in (q, k, v))
            if best is None:
                message, best = coarsest(q, k, v, self.topk, self.kind)
            else:
                finest = i == self.levels - 1
                message, best = finer(best, q, k, v, self.topk, self.kind, finest)
            yield message, best


class LevelWeights(nn.Module):
    """How much each level counts, and the position that each adds: index 0 is the coarsest."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(levels))
        self.get_vs = nn.ModuleList(depthwise(dim, 3) for _ in range(levels))

    def weighted(self, level: int, message: Tensor, value: Tensor) -> Tensor:
        """Message and position of a level, ``(N, C, H, W)``, times its weight."""
        position: Tensor = self.get_vs[level](value)
        return self.weight.softmax(0)[level] * (message + position)


def _coarser_values(dim: int) -> nn.Sequential:
    """Values of half the height and width."""
    return nn.Sequential(
        nn.GroupNorm(1, dim),
        nn.GELU(),
        nn.Conv2d(dim, dim, 2, 2),
        nn.GroupNorm(1, dim),
        nn.GELU(),
        nn.Conv2d(dim, dim, 1),
    )
