"""Bi-Level Routing Attention (Zhu et al., CVPR 2023), and what it is measured by: the same with
random routes, and with routes to everything."""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.attention import projected, split_heads
from bilevel.nn import BiLevelRoutingAttention
from bilevel.ops import bra


def full_attention(dim: int, heads: int) -> BiLevelRoutingAttention:
    """All tokens attend to all: BRA with a single region, which is routed to itself. Projections
    and local context enhancement are those of BRA, so that the routes make the difference."""
    return BiLevelRoutingAttention(dim, heads, regions=1, topk=1, scale=dim**-0.5)


class RandomRouting(BiLevelRoutingAttention):
    """BRA whose routes are drawn at random, once for each layer: each region attends to ``topk``
    regions that have nothing to do with what is in them. Tokens are ``(N, H, W, dim)``.

    Regions have to fit the map: an axis has no fewer tokens than regions.
    """

    routes: Tensor

    def __init__(
        self, dim: int, heads: int, regions: int = 7, topk: int = 4, seed: int = 0
    ) -> None:
        super().__init__(dim, heads, regions, topk, scale=dim**-0.5)
        number = regions**2
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(number, number, generator=generator, device="cpu")
        routes = order.topk(min(topk, number)).indices
        self.register_buffer("routes", routes.to(self.qkv.weight.device))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        index = self.routes.expand(len(x), -1, -1)
        out = bra(q, k, v, routes=index, regions=self.regions, scale=self.scale)
        return projected(self, out.reshape(x.shape), v.reshape(x.shape))
