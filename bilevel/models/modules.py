"""The parts of a BiFormer as torch modules, whose ``forward`` is the shared architecture.

Convolutions, normalisations and linear layers are torch's own classes, and see what torch says they
see, so that what walks modules, converts or counts them is right.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bilevel.models import biformer
from bilevel.models.config import FULL_ATTENTION_HEADS, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention, depthwise
from bilevel.protocol import Backend


class DropPath(nn.Module):
    """In training, drops the branch of whole images with probability ``rate`` (stochastic depth);
    the branches that stay are scaled up, so that the expectation is the same."""

    kept: Tensor | None = None
    """Which images keep the branch, 1 or 0 for each, ``(N,)`` on their device; None, as by default:
    it is drawn anew in each call, by torch's own generator. Training on several devices sets it for
    each step, so that what is dropped does not depend on how a batch is shared."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        if self.kept is None:
            kept = x.new_empty(shape).bernoulli_(keep)
        else:
            kept = self.kept.to(x.dtype).view(shape)
        return x * kept.div(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.mlp(self, x)


class FullAttention(nn.Module):
    """Attention of every token to every token on ``(N, H, W, C)``."""

    def __init__(self, config: BiFormerConfig, dim: int, backend: str | Backend | None) -> None:
        super().__init__()
        self.num_heads = FULL_ATTENTION_HEADS
        self.scale = (dim // FULL_ATTENTION_HEADS) ** -0.5
        self.lce_on_values = config.variant == "nchw"
        self.backend = backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.lce = depthwise(dim, kernel=5)
        self.proj = nn.Linear(dim, dim)

    @overload
    def forward(self, x: Tensor, return_routes: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, return_routes: Literal[True]) -> tuple[Tensor, None]: ...
    def forward(self, x: Tensor, return_routes: bool = False) -> Any:
        return biformer.full_attention(self, x, return_routes)


class Block(nn.Module):
    """Attention and MLP, in the layout ``"biformer"`` behind a convolution for the position."""

    def __init__(
        self, config: BiFormerConfig, stage: int, drop_path: float, backend: str | Backend | None
    ) -> None:
        super().__init__()
        dim, topk = config.embed_dims[stage], config.topk[stage]
        if config.layout == "biformer":
            self.position = depthwise(dim, kernel=3)
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = (
            FullAttention(config, dim, backend)
            if topk is None
            else _routed_attention(config, dim, topk, backend)
        )
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(dim, config.mlp_ratio * dim)
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)
        self.function = biformer.BLOCK[config.layout]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _routed_attention(
    config: BiFormerConfig, dim: int, topk: int, backend: str | Backend | None
) -> BiLevelRoutingAttention:
    return BiLevelRoutingAttention(
        dim,
        dim // config.head_dim,
        config.regions,
        topk,
        scale=dim**-0.5,  # of all heads: what the released weights were trained with
        padding=config.padding,
        variant=config.variant,
        backend=backend,
    )


PART = 4 * 2**20
"""Bytes of a stage's input that are computed at a time in inference on a CPU, about. The many times
larger arrays that blocks make of more would go back to the system after each layer, and return page
by page."""


class Stage(nn.Sequential):
    """Blocks, one after the other, on ``(N, C, H, W)``; with ``checkpointing``, training keeps only
    their inputs. In inference on a CPU, some images at a time, unless hooks look on: they see all
    images at once."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return biformer.stage(map(_checkpointed, self), x)
        parts = round(x.nbytes / PART) if self._splits(x) else 1
        if parts < 2:
            return biformer.stage(self, x)
        return torch.cat([biformer.stage(self, part) for part in x.chunk(parts)])

    def _splits(self, x: Tensor) -> bool:
        """Whether memory is worth a thought, and nothing sees how many images blocks are given."""
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.compiler.is_compiling():
            return False
        inference = not (self.training or torch.is_grad_enabled())
        return inference and x.device.type == "cpu" and not any(map(_is_hooked, self))


def _is_hooked(block: nn.Module) -> bool:
    """Whether a call of the block, or of a module in it, runs a hook, or a replaced forward."""
    of_all = torch.nn.modules.module
    return bool(of_all._global_forward_hooks or of_all._global_forward_pre_hooks) or any(
        inner._forward_hooks or inner._forward_pre_hooks or "forward" in vars(inner)
        for inner in block.modules()
    )


def _checkpointed(block: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: checkpoint(block, x, use_reentrant=False)


def downsamples(config: BiFormerConfig) -> nn.ModuleList:
    """What makes maps smaller before each stage of a model."""
    widths = (config.in_chans, *config.embed_dims)
    pairs = pairwise(widths[: config.stages + 1])
    return nn.ModuleList(_downsample(config, stage, *pair) for stage, pair in enumerate(pairs))


def _downsample(config: BiFormerConfig, stage: int, in_dim: int, dim: int) -> nn.Module:
    if config.layout == "stl":
        return ConvNorm(in_dim, dim, 4, 4, 0) if stage == 0 else NormConv(in_dim, dim)
    return OverlappingStem(in_dim, dim) if stage == 0 else ConvNorm(in_dim, dim, 3, 2, 1)


def stages(config: BiFormerConfig, backend: str | Backend | None) -> nn.ModuleList:
    """The stages of a model."""
    rates = config.drop_path_rates()
    return nn.ModuleList(
        Stage(*(Block(config, stage, next(rates), backend) for _ in range(depth)))
        for stage, depth in enumerate(config.depths[: config.stages])
    )


def feature_info(config: BiFormerConfig) -> list[dict[str, Any]]:
    """For each stage, as timm's models have it: its channels ``num_chs``, by how much its map is
    smaller than the image (``reduction``), and the name of its ``module``."""
    return [
        {"num_chs": dim, "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
        for stage, dim in enumerate(config.embed_dims[: config.stages])
    ]


def set_checkpointing(model: nn.Module, enable: bool) -> None:
    """Let the stages of a model keep only the inputs of their blocks, or all that they compute."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.checkpointing = enable


def in_channels_last(images: Tensor) -> Tensor:
    """Images ``(N, C, H, W)`` in memory of the order ``(N, H, W, C)``."""
    biformer.check_images(images)
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def initialise(module: nn.Module) -> None:
    """Linear layers as in the official code; the others keep torch's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class OverlappingStem(nn.Module):
    """Images to features by two 3 x 3 convolutions of stride 2."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(dim // 2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.overlapping_stem(self, x)


class ConvNorm(nn.Module):
    """A downsampling convolution, then normalisation."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, padding)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.conv_norm(self, x)


class NormConv(nn.Module):
    """Normalisation, then a downsampling convolution of 2 x 2."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_dim)
        self.conv = nn.Conv2d(in_dim, dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.norm_conv(self, x)
