"""The architecture of BiFormer (CVPR 2023), written once for every array library.

Each function takes ``p``, anything whose attributes are callables on arrays: a torch module, or
the layers of arrays of :mod:`bilevel.models.array_layers`. Images, features and what stages give
each other are ``(N, C, H, W)``, as convolutions and batch normalisation take them; within a stage,
tokens are ``(N, H, W, C)``. See :mod:`bilevel.axes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

from bilevel.attention import projected, split_heads
from bilevel.axes import channels_first, channels_last, convolved, has_method, reshaped
from bilevel.errors import ShapeError
from bilevel.ops import bra
from bilevel.protocol import Array, Routes


def check_images(images: Array, channels: int | None = None) -> None:
    """Raise ShapeError unless images are ``(N, C, H, W)``, of so many channels if given."""
    shape = tuple(images.shape)
    if len(shape) != 4 or channels not in (None, shape[1]):
        raise ShapeError(f"expected images (N, {channels or 'C'}, H, W), got {shape}")


def logits(p: Any, images: Array) -> Array:
    """Logits ``(N, classes)`` of images ``(N, C, H, W)``."""
    return p.head(pool(features(p, images)))


def logits_with_tokens(p: Any, images: Array) -> Array:
    """The same of a model that learned token labels; see :func:`with_tokens`."""
    x = features(p, images)
    return with_tokens(p.head(pool(x)), p.aux_head(channels_last(x)))


def with_tokens(pooled: Array, dense: Array) -> Array:
    """Logits of images ``(N, classes)``, and half the largest of their tokens' ``(N, H, W,
    classes)`` for each class (VOLO and LV-ViT, official code)."""
    largest = "amax" if has_method(dense, "amax") else "max"  # torch, or NumPy and CuPy
    if has_method(dense, largest):
        return pooled + 0.5 * getattr(dense, largest)((1, 2))
    return pooled + 0.5 * dense.__array_namespace__().max(dense, axis=(1, 2))


def _same(x: Array) -> Array:
    return x


def features(p: Any, images: Array, after_stem: Callable[[Array], Array] = _same) -> Array:
    """Normalised output of the last stage, ``(N, C, H, W)``; see :func:`stages`."""
    *_, last = stages(p, images, after_stem)
    return p.norm(last)


def stages(p: Any, x: Array, after_stem: Callable[[Array], Array] = _same) -> Iterator[Array]:
    """The output of each stage, before the final normalisation (section 4, figure 3a). The first
    takes what ``after_stem`` makes of its map, which is where MixToken mixes."""
    for i, (downsample, each) in enumerate(zip(p.downsamples, p.stages, strict=True)):
        x = downsample(x)
        x = each(x if i else after_stem(x))
        yield x


def levels(p: Any, images: Array) -> tuple[Array, ...]:
    """The outputs of the stages ``p.out_indices``, ``(N, C, H, W)``, each normalised over its
    channels, for dense prediction. The next stage takes what is not normalised."""
    outputs = enumerate(zip(p.norms, stages(p, images), strict=True))
    return tuple(
        channels_first(norm(channels_last(x))) for i, (norm, x) in outputs if i in p.out_indices
    )


def pool(x: Array) -> Array:
    """Mean of features ``(N, C, H, W)`` over their places, for the head."""
    return x.mean((2, 3)) if has_method(x, "mean") else x.__array_namespace__().mean(x, axis=(2, 3))


def overlapping_stem(p: Any, x: Array) -> Array:
    """Two convolutions of stride 2 in place of patches."""
    x = p.norm1(p.conv1(x))
    x = channels_first(p.act(channels_last(x)))  # by the order of memory, where torch is faster
    return p.norm2(p.conv2(x))


def conv_norm(p: Any, x: Array) -> Array:
    """A downsampling convolution, then normalisation."""
    return p.norm(p.conv(x))


def norm_conv(p: Any, x: Array) -> Array:
    """Normalisation, then a downsampling convolution, as Swin merges patches."""
    return p.conv(p.norm(x))


def stage(blocks: Iterable[Any], x: Array) -> Array:
    """Blocks, one after the other, on tokens; ``(N, C, H, W)`` before and after."""
    x = channels_last(x)
    for each in blocks:
        x = each(x)
    return channels_first(x)


def block(p: Any, x: Array) -> Array:
    """Position, attention, MLP, each added to its input (figure 3b)."""
    x = x + convolved(p.position, x)
    return attention_mlp(p, x)


def attention_mlp(p: Any, x: Array) -> Array:
    """A block without a position convolution, as in the Swin-T layout."""
    x = x + p.drop_path1(p.attention(p.norm1(x)))
    return x + p.drop_path2(p.mlp(p.norm2(x)))


BLOCK = {"biformer": block, "stl": attention_mlp}
"""The block of each layout."""


def mlp(p: Any, x: Array) -> Array:
    """Two linear layers around an activation."""
    return p.fc2(p.act(p.fc1(x)))


def full_attention(p: Any, x: Array, return_routes: bool = False) -> Array:
    """Every token attends to every token, BRA with a single region; LCE on the input, or on the
    values where p says so. With ``return_routes``, a pair of the result and None."""
    q, k, v = split_heads(p.qkv(x), p.num_heads)
    out = bra(q, k, v, topk=1, regions=1, scale=p.scale, backend=p.backend)
    out = projected(p, reshaped(out, x.shape), reshaped(v, x.shape) if p.lce_on_values else x)
    return (out, None) if return_routes else out


def routes(p: Any, images: Array) -> list[list[Routes | None]]:
    """The routes of each block of each stage; None where attention is full."""
    return attentions(p, images, lambda _, attention, x: attention(x, return_routes=True))


Attend: TypeAlias = Callable[[int, Any, Array], tuple[Array, Any]]
"""From the number of a stage, from 0, an attention in it and its tokens ``(N, H, W, C)`` to the
attention's output, and what is found there."""


def attentions(p: Any, images: Array, attend: Attend) -> list[list[Any]]:
    """What ``attend`` finds in each block of each stage, in one pass in which it stands in for the
    call of the attention."""
    found = []
    x = images
    for i, (downsample, each) in enumerate(zip(p.downsamples, p.stages, strict=True)):
        blocks = [_Watched(block, partial(attend, i)) for block in each]
        x = stage(blocks, downsample(x))
        found.append([block.found for block in blocks])
    return found


class _Watched:
    """A block that keeps what is found at its attention; all else is that of the block."""

    def __init__(self, block: Any, attend: Callable[[Any, Array], tuple[Array, Any]]) -> None:
        self.block, self.attend = block, attend
        self.found: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)

    def attention(self, x: Array) -> Array:
        out, self.found = self.attend(self.block.attention, x)
        return out

    def __call__(self, x: Array) -> Array:
        return self.block.function(self, x)
