"""The gather formulation, the thing to beat: BRA as the official code computes it.

Keys and values are expanded to one copy for each query region, and torch.gather takes the routed
regions from them; then matrix product, softmax, matrix product. Written plainly, for 2-D maps that
the regions divide.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from bilevel.models import BiFormer
from bilevel.nn import BiLevelRoutingAttention


def windows(x: Tensor, s: int) -> Tensor:
    """``(N, H, W, C)`` to ``(N, s * s, H // s, W // s, C)``."""
    n, h, w, c = x.shape
    x = x.reshape(n, s, h // s, s, w // s, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, s * s, h // s, w // s, c)


def unwindowed(x: Tensor, s: int) -> Tensor:
    """The inverse of :func:`windows`."""
    n, _, h, w, c = x.shape
    return x.reshape(n, s, s, h, w, c).permute(0, 1, 3, 2, 4, 5).reshape(n, s * h, s * w, c)


def gather_attention(q: Tensor, kv: Tensor, heads: int, topk: int, scale: float) -> Tensor:
    """Routing and attention of windows: q ``(N, R, h, w, C)``, kv ``(N, R, h, w, 2 * C)``."""
    n, r, h, w, c = q.shape
    t, d = h * w, c // heads
    with torch.no_grad():
        q_mean, k_mean = q.mean((2, 3)), kv[..., :c].mean((2, 3))
        index = (q_mean @ k_mean.transpose(1, 2)).topk(topk, dim=-1).indices
    copies = kv.reshape(n, 1, r, t, 2 * c).expand(-1, r, -1, -1, -1)
    chosen = index.reshape(n, r, topk, 1, 1).expand(-1, -1, -1, t, 2 * c)
    k, v = torch.gather(copies, 2, chosen).chunk(2, dim=-1)
    queries = q.reshape(n * r, t, heads, d).transpose(1, 2)
    keys = k.reshape(n * r, topk * t, heads, d).permute(0, 2, 3, 1)
    values = v.reshape(n * r, topk * t, heads, d).transpose(1, 2)
    out = ((queries * scale) @ keys).softmax(-1) @ values
    return out.transpose(1, 2).reshape(n, r, h, w, c)


def gather_bra(q: Tensor, k: Tensor, v: Tensor, topk: int, regions: int, scale: float) -> Tensor:
    """:func:`bilevel.bra` on ``(N, H, W, M, D)``."""
    q_windows, *kv_windows = (windows(x.flatten(3), regions) for x in (q, k, v))
    kv = torch.cat(kv_windows, dim=-1)
    out = gather_attention(q_windows, kv, q.shape[3], topk, scale)
    return unwindowed(out, regions).view(q.shape)


class GatherAttention(nn.Module):
    """A routed attention of BiFormer, with the same parameters, computed as the official code."""

    def __init__(self, like: BiLevelRoutingAttention) -> None:
        super().__init__()
        self.num_heads, self.topk, self.scale = like.num_heads, like.topk, like.scale
        self.regions = like.regions[0]
        self.qkv, self.proj = like.qkv, like.proj
        assert like.lce is not None
        self.lce = like.lce

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[-1]
        q, kv = self.qkv(windows(x, self.regions)).tensor_split((c,), dim=-1)
        values = unwindowed(kv[..., c:], self.regions).permute(0, 3, 1, 2).contiguous()
        local = self.lce(values).permute(0, 2, 3, 1)
        out = gather_attention(q, kv, self.num_heads, self.topk, self.scale)
        return self.proj(unwindowed(out, self.regions) + local)


def gather_formulation(model: BiFormer) -> BiFormer:
    """A copy of a model, with its routed attention in the gather formulation."""
    model = deepcopy(model)
    for block in model.modules():
        attention = getattr(block, "attention", None)
        if isinstance(attention, BiLevelRoutingAttention):
            block.attention = GatherAttention(attention)
    return model
