"""The architecture of BiFormer (CVPR 2023), written once for every array library.

Each function takes ``p``, anything whose attributes are callables on ``(N, H, W, C)`` arrays: a
torch module, or the layers that :mod:`bilevel.models.layers` builds from a dict of arrays.
Convolutions pad by half their kernel, so that they keep the size of the map, but for the ones
that lower it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bilevel.attention import (
    reshaped,
    routed_attention,
    routed_attention_legacy_padded,
    split_heads,
)
from bilevel.grid import Grid
from bilevel.ops import bra, route, summarize
from bilevel.protocol import Array


def stages(p: Any, x: Array) -> Iterator[Array]:
    """The output of each stage, before the final normalisation (section 4, figure 3a)."""
    for downsample, stage in zip(p.downsamples, p.stages, strict=True):
        x = stage(downsample(x))
        yield x


def features(p: Any, x: Array) -> Array:
    """Normalised output of the last stage, from images ``(N, H, W, C)``."""
    *_, last = stages(p, x)
    return p.norm(last)


def pool(x: Array) -> Array:
    """Global mean of features ``(N, H, W, C)``, for the head."""
    return x.mean((1, 2))


def overlapping_stem(p: Any, x: Array) -> Array:
    """Two convolutions of stride 2 in place of patches."""
    return p.norm2(p.conv2(p.act(p.norm1(p.conv1(x)))))


def conv_norm(p: Any, x: Array) -> Array:
    """A downsampling convolution, then normalisation."""
    return p.norm(p.conv(x))


def norm_conv(p: Any, x: Array) -> Array:
    """Normalisation, then a downsampling convolution, as Swin merges patches."""
    return p.conv(p.norm(x))


def stage(blocks: Iterable[Any], x: Array) -> Array:
    """Blocks, one after the other."""
    for each in blocks:
        x = each(x)
    return x


def block(p: Any, x: Array) -> Array:
    """Position, attention, MLP, each added to its input (figure 3b)."""
    x = x + p.position(x)
    return attention_mlp(p, x)


def attention_mlp(p: Any, x: Array) -> Array:
    """A block without a position convolution, as in the Swin-T layout."""
    x = x + p.drop_path(p.attention(p.norm1(x)))
    return x + p.drop_path(p.mlp(p.norm2(x)))


BLOCK = {"biformer": block, "stl": attention_mlp}
"""The block of each layout."""


def mlp(p: Any, x: Array) -> Array:
    """Two linear layers around an activation."""
    return p.fc2(p.act(p.fc1(x)))


def full_attention(p: Any, x: Array) -> Array:
    """Every token attends to every token, BRA with a single region; LCE on the input, or on the
    values where p says so."""
    q, k, v = split_heads(p.qkv(x), p.num_heads)
    out = bra(q, k, v, topk=1, regions=1, scale=p.scale, backend=p.backend)
    local = reshaped(v, x.shape) if p.lce_on_values else x
    return p.proj(reshaped(out, x.shape) + p.lce(local))


def routed_attention_nchw_padded(p: Any, x: Array) -> Array:
    """The official nchw code: zeros are added to q, k and v, which region means leave out.

    A region has ``n // regions`` tokens on an axis, so there may be more regions than asked for.
    """
    h, w = x.shape[1:3]
    qkv = p.qkv(x)
    sizes = tuple(max(1, n // s) for n, s in zip((h, w), p.regions, strict=True))
    regions = tuple(-(-n // size) for n, size in zip((h, w), sizes, strict=True))
    grid = Grid(tuple(r * size for r, size in zip(regions, sizes, strict=True)), regions)
    q, k, v = split_heads(p.pad(qkv, grid.spatial), p.num_heads)
    q_mean, k_mean = (summarize(y, grid, backend=p.backend) for y in (q, k))
    by_axis = reshaped(k_mean, (-1, *regions, x.shape[-1]))
    by_axis[:, -1, ...] *= sizes[0] / (h - (regions[0] - 1) * sizes[0])
    by_axis[:, :, -1, :] *= sizes[1] / (w - (regions[1] - 1) * sizes[1])
    k_mean = reshaped(by_axis, k_mean.shape)
    routes = route(q_mean, k_mean, min(p.topk, grid.num_regions), backend=p.backend)
    out = bra(q, k, v, routes=routes.index, regions=regions, scale=p.scale, backend=p.backend)
    out = reshaped(out[:, :h, :w, ...], x.shape)
    return p.proj(out + p.lce(qkv[..., -x.shape[-1] :]))


ROUTED_ATTENTION = {
    ("masked", "legacy"): routed_attention,
    ("masked", "nchw"): routed_attention,
    ("official", "legacy"): routed_attention_legacy_padded,
    ("official", "nchw"): routed_attention_nchw_padded,
}
"""The routed attention for each ``(padding, variant)`` of a config."""
