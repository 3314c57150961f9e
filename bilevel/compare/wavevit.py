"""WaveViT-S (Yao et al., ECCV 2022) as a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend
from bilevel.compare.pyramid import EPSILON, Block, Patches, Pyramid
from bilevel.compare.separable import GlobalSubsampledAttention
from bilevel.compare.wavelet import WaveletAttention
from bilevel.models.modules import Mlp

WIDTHS = (64, 128, 320, 448)
HEADS = (2, 4, 10, 14)
DEPTHS = (3, 4, 6, 3)
MLP_RATIOS = (8, 8, 4, 4)
REDUCTIONS = (4, 2)
"""Of the stages with wavelet attention; the others have attention of all tokens to all."""
AUXILIARY = 0.5
"""How much the best of the tokens' logits count beside those of the class token."""


class Stem(Patches):
    """Three convolutions, then one that makes tokens: images ``(N, 3, H, W)`` to a quarter."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__(hidden, dim, 3, 2)
        self.conv = nn.Sequential(
            *_conv_norm(3, hidden, 7, 2),
            *_conv_norm(hidden, hidden, 3),
            *_conv_norm(hidden, hidden, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class ClassAttention(nn.Module):
    """The first token of ``(N, T, C)`` attends to all: ``(N, 1, C)``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(dim, 2 * dim)
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)
        return self.proj(attend(self.q(x[:, :1]), k, v, self.heads))


class ClassBlock(nn.Module):
    """A block that changes the first token of ``(N, T, C)`` alone, the one for the class."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = ClassAttention(dim, heads)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, :1] + self.attn(self.norm1(x))
        first = first + self.mlp(self.norm2(first))
        return torch.cat((first, x[:, 1:]), 1)


class WaveViT(Pyramid):
    """WaveViT-S. With ``token_labels``, the model that was trained with token labelling, which has
    a second head on the tokens."""

    def __init__(self, num_classes: int = 1000, token_labels: bool = False) -> None:
        patches: list[nn.Module] = [Stem(WIDTHS[0] // 2, WIDTHS[0])]
        patches += [Patches(*widths, 3, 2) for widths in pairwise(WIDTHS)]
        super().__init__(patches, [_stage(i) for i in range(len(DEPTHS))])
        dim = WIDTHS[-1]
        self.post_network = nn.ModuleList([ClassBlock(dim, HEADS[-1], MLP_RATIOS[-1])])
        self.head = nn.Linear(dim, num_classes)
        self.aux_head = nn.Linear(dim, num_classes) if token_labels else None

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(images).flatten(1, 2)
        x = self.norm4(self.post_network[0](torch.cat((x.mean(1, keepdim=True), x), 1)))
        logits = self.head(x[:, 0])
        if self.aux_head is None:
            return logits
        return logits + AUXILIARY * self.aux_head(x[:, 1:]).amax(1)


def _stage(stage: int) -> list[Block]:
    dim, heads = WIDTHS[stage], HEADS[stage]

    def attention() -> nn.Module:
        if stage < len(REDUCTIONS):
            return WaveletAttention(dim, heads, REDUCTIONS[stage])
        return GlobalSubsampledAttention(dim, heads)

    return [Block(attention(), dim, MLP_RATIOS[stage]) for _ in range(DEPTHS[stage])]


def _conv_norm(in_dim: int, dim: int, kernel: int, stride: int = 1) -> Sequence[nn.Module]:
    conv = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(dim), nn.ReLU()
