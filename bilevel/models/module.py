"""BiFormer as torch modules: real submodules, whose ``forward`` is the shared architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bilevel.errors import ShapeError
from bilevel.models import biformer
from bilevel.models.config import FULL_ATTENTION_HEADS, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention, Conv2d
from bilevel.protocol import Backend


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation on ``(N, H, W, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """In training, drops the branch of whole images with probability ``rate`` (stochastic depth);
    the branches that stay are scaled up, so that the expectation is the same."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * kept.div_(keep)

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


class NchwPaddedAttention(BiLevelRoutingAttention):
    """The layer with the padding of the official nchw code."""

    def forward(self, x: Tensor) -> Tensor:
        return biformer.routed_attention_nchw_padded(self, x)


class FullAttention(nn.Module):
    """Attention of every token to every token on ``(N, H, W, C)``."""

    def __init__(self, config: BiFormerConfig, dim: int, backend: str | Backend | None) -> None:
        super().__init__()
        self.num_heads = FULL_ATTENTION_HEADS
        self.scale = (dim // FULL_ATTENTION_HEADS) ** -0.5
        self.lce_on_values = config.variant == "nchw"
        self.backend = backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.lce = Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.full_attention(self, x)


class Block(nn.Module):
    """Attention and MLP, in the layout ``"biformer"`` behind a convolution for the position."""

    def __init__(
        self, config: BiFormerConfig, stage: int, drop_path: float, backend: str | Backend | None
    ) -> None:
        super().__init__()
        dim, topk = config.embed_dims[stage], config.topk[stage]
        if config.layout == "biformer":
            self.position = Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = (
            FullAttention(config, dim, backend)
            if topk is None
            else _routed_attention(config, dim, topk, backend)
        )
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(dim, config.mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)
        self.layout = config.layout

    def forward(self, x: Tensor) -> Tensor:
        return biformer.BLOCK[self.layout](self, x)


def _routed_attention(
    config: BiFormerConfig, dim: int, topk: int, backend: str | Backend | None
) -> BiLevelRoutingAttention:
    as_nchw = (config.padding, config.variant) == ("official", "nchw")
    layer = NchwPaddedAttention if as_nchw else BiLevelRoutingAttention
    return layer(
        dim,
        dim // config.head_dim,
        config.regions,
        topk,
        scale=dim**-0.5,  # of all heads: what the released weights were trained with
        padding=config.padding,
        backend=backend,
    )


PART = 4 * 2**20
"""Bytes of a stage's input that are computed at a time, on a CPU without gradients, about. What
blocks make of more, many times as much, would go back to the system after each layer, and return
page by page."""


class Stage(nn.Sequential):
    """Blocks, one after the other, on all images or some at a time; with ``checkpointing``,
    training keeps only their inputs. Hooks on modules inside see all images at once."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            recompute = self.checkpointing and self.training
            return biformer.stage(map(_checkpointed, self) if recompute else self, x)
        parts = self._parts(x)
        if parts < 2:
            return biformer.stage(self, x)
        return torch.cat([biformer.stage(self, part) for part in x.chunk(parts)])

    def _parts(self, x: Tensor) -> int:
        """Into how many to split the images where there are no gradients."""
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if x.device.type != "cpu" or tracing or torch.compiler.is_compiling():
            return 1
        if any(inner._forward_hooks or inner._forward_pre_hooks for inner in self.modules()):
            return 1
        return round(x.nbytes / PART)


def _checkpointed(block: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: checkpoint(block, x, use_reentrant=False)


class OverlappingStem(nn.Module):
    """Images to tokens by two 3 x 3 convolutions of stride 2."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = BatchNorm2d(dim // 2)
        self.act = nn.GELU()
        self.conv2 = Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.overlapping_stem(self, x)


class ConvNorm(nn.Module):
    """A downsampling convolution, then normalisation."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_dim, dim, kernel, stride, padding)
        self.norm = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.conv_norm(self, x)


class NormConv(nn.Module):
    """Normalisation, then a downsampling convolution of 2 x 2."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(in_dim)
        self.conv = Conv2d(in_dim, dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return biformer.norm_conv(self, x)


class BiFormer(nn.Module):
    """BiFormer as a torch module: NCHW images in, logits out, ``(N, H, W, C)`` inside.

    Parameters
    ----------
    config
        The model's shape. Where a feature map is smaller than ``config.regions`` on an axis, its
        tokens are the regions; topk is at most the number of regions.
    backend
        Who computes the attention; see :func:`bilevel.bra`.

    Attributes
    ----------
    num_features
        Channels of ``forward_features``, the last stage's width.
    """

    def __init__(self, config: BiFormerConfig, backend: str | Backend | None = None) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.embed_dims[-1]
        widths = (config.in_chans, *config.embed_dims)
        self.downsamples = nn.ModuleList(
            _downsample(config, stage, *widths[stage : stage + 2])
            for stage in range(len(config.depths))
        )
        rates = config.drop_path_rates()
        self.stages = nn.ModuleList(
            Stage(*(Block(config, stage, next(rates), backend) for _ in range(depth)))
            for stage, depth in enumerate(config.depths)
        )
        self.norm = BatchNorm2d(self.num_features)
        self.head: nn.Module
        self.reset_classifier(config.num_classes)
        self.apply(_initialise)

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 where there is none."""
        return self.config.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to logits ``(N, classes)``."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to normalised features ``(N, num_features, H / 32, W / 32)``."""
        return biformer.features(self, _nhwc(images)).permute(0, 3, 1, 2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features ``(N, num_features, H, W)`` to logits, or with ``pre_logits`` to their mean."""
        pooled = biformer.pool(features.permute(0, 2, 3, 1))
        return pooled if pre_logits else self.head(pooled)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with ``num_classes`` outputs; 0 removes it."""
        self.config = replace(self.config, num_classes=num_classes)
        if num_classes == 0:
            self.head = nn.Identity()
            return
        like = self.norm.weight
        self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        _initialise(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute each block again in the backward pass."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.checkpointing = enable


def _downsample(config: BiFormerConfig, stage: int, in_dim: int, dim: int) -> nn.Module:
    if config.layout == "stl":
        return ConvNorm(in_dim, dim, 4, 4, 0) if stage == 0 else NormConv(in_dim, dim)
    return OverlappingStem(in_dim, dim) if stage == 0 else ConvNorm(in_dim, dim, 3, 2, 1)


def _nhwc(images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise ShapeError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
    return images.permute(0, 2, 3, 1).contiguous()


def _initialise(module: nn.Module) -> None:
    """Linear layers as in the official code; the others keep torch's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
