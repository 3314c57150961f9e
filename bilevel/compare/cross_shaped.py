"""Cross-shaped window attention of CSWin (Dong et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.axes import convolved
from bilevel.compare.attend import attend
from bilevel.compare.windows import from_windows, windows
from bilevel.nn import depthwise


class CrossShapedAttention(nn.Module):
    """Half of the heads attend within vertical stripes, the other half within horizontal ones;
    together a token sees a cross.

    Stripes are ``stripe`` tokens wide and as long as the map. Where a stripe is as wide as the map,
    all heads attend to all of it. The position comes from a depthwise convolution of the values
    inside each stripe, which is added to what was attended to (LePE).

    With an odd number of heads each half has the number that integer division leaves, of wider
    heads, as in the official code; one head has one in each half.

    Tokens are ``(N, H, W, dim)``.
    """

    def __init__(self, dim: int, heads: int, stripe: int, last_stage: bool = False) -> None:
        super().__init__()
        self.stripe, self.last_stage = stripe, last_stage
        branches = 1 if last_stage else 2
        heads = max(1, heads // branches)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attns = nn.ModuleList(StripeAttention(dim // branches, heads) for _ in range(branches))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        upright, across = (height, self.stripe), (self.stripe, width)
        stripes = ((height, width),) if self.last_stage else (upright, across)
        parts = (y.chunk(len(self.attns), -1) for y in self.qkv(x).chunk(3, -1))
        branches = zip(self.attns, stripes, *parts, strict=True)
        return self.proj(torch.cat([branch(*qkv, size) for branch, size, *qkv in branches], -1))


class StripeAttention(nn.Module):
    """Attention within stripes, with LePE, on queries, keys and values ``(N, H, W, dim)``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.get_v = depthwise(dim, 3)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """``size`` is the height and width of a stripe."""
        shape = tuple(v.shape)
        q, k, v = (windows(x, size) for x in (q, k, v))
        position = convolved(self.get_v, v.unflatten(1, size)).flatten(1, 2)
        return from_windows(attend(q, k, v, self.heads) + position, size, shape)
