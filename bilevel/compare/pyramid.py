"""What the whole models of QuadTree and WaveViT share with PVTv2 (Wang et al., 2022): blocks whose
MLP has a convolution, and downsampling by overlapping patches. Names are the official ones."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bilevel.axes import channels_first, channels_last, convolved
from bilevel.models.modules import DropPath
from bilevel.nn import depthwise

EPSILON = 1e-6
"""Of the normalisations in and after blocks."""


class DepthwiseConv(nn.Module):
    """A depthwise convolution of tokens ``(N, H, W, C)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = depthwise(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return convolved(self.dwconv, x)


class ConvMlp(nn.Module):
    """Two linear layers with a depthwise convolution and a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Attention and MLP on tokens ``(N, H, W, dim)``, each added to its input."""

    def __init__(self, attn: nn.Module, dim: int, mlp_ratio: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = ConvMlp(dim, mlp_ratio * dim)
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """A convolution whose patches overlap, then normalisation: ``(N, C, H, W)`` to tokens."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.proj(x)))


class Pyramid(nn.Module):
    """Four stages, each of a downsampling ``patch_embed``, blocks and a normalisation ``norm``,
    which have the number of their stage at the end of their names."""

    norm4: nn.LayerNorm

    def __init__(self, patches: list[nn.Module], blocks: list[list[Block]]) -> None:
        super().__init__()
        for i, (patch, stage) in enumerate(zip(patches, blocks, strict=True), 1):
            self.add_module(f"patch_embed{i}", patch)
            self.add_module(f"block{i}", nn.ModuleList(stage))
            self.add_module(f"norm{i}", nn.LayerNorm(stage[-1].norm2.normalized_shape, EPSILON))
        self.stages = len(blocks)

    def tokens(self, x: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to the last stage's tokens ``(N, H / 32, W / 32, C)``, before
        the last normalisation."""
        for i in range(1, self.stages + 1):
            if i > 1:
                x = channels_first(self.get_submodule(f"norm{i - 1}")(x))
            x = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}").children():
                x = block(x)
        return x
