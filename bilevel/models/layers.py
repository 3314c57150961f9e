"""The layers of a BiFormer over plain arrays: from a flat dict of them to something to call.

For inference without torch, and as the reference that the torch modules are held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bilevel.models import biformer
from bilevel.models.config import FULL_ATTENTION_HEADS, BiFormerConfig
from bilevel.protocol import Array, Backend

BATCH_NORM_EPS = 1e-5


class Node:
    """A function of the architecture, bound to its layers: ``node(x)`` is ``function(node, x)``."""

    def __init__(self, function: Callable[[Any, Array], Array], **layers: Any) -> None:
        self.function = function
        self.__dict__.update(layers)

    def __call__(self, x: Array) -> Array:
        return self.function(self, x)


def build(
    config: BiFormerConfig,
    params: Mapping[str, Array],
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> Node:
    """The whole model, ``(N, H, W, C)`` images to logits, from parameters that fit ``config``."""
    tree = _nest(params)
    norm = partial(batch_norm, batch_stats=batch_stats)
    downsamples = [
        _downsample(config, stage, tree["downsamples"][str(stage)], norm)
        for stage in range(len(config.depths))
    ]
    stages = [
        partial(
            biformer.stage,
            [
                _block(config, stage, tree["stages"][str(stage)][str(block)], backend)
                for block in range(depth)
            ],
        )
        for stage, depth in enumerate(config.depths)
    ]
    return Node(
        lambda p, x: p.head(biformer.pool(biformer.features(p, x))),
        downsamples=downsamples,
        stages=stages,
        norm=norm(tree["norm"]),
        head=linear(tree["head"]) if config.num_classes else _identity,
    )


def _nest(params: Mapping[str, Array]) -> dict[str, Any]:
    """``{"a.b": x}`` to ``{"a": {"b": x}}``."""
    tree: dict[str, Any] = {}
    for name, array in params.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


def _identity(x: Array) -> Array:
    return x


def _downsample(config: BiFormerConfig, stage: int, arrays: dict[str, Any], norm: Any) -> Node:
    if config.layout == "stl":
        function = biformer.conv_norm if stage == 0 else biformer.norm_conv
        stride = 4 if stage == 0 else 2
        conv = conv2d(arrays["conv"], stride, padding=0)
        return Node(function, conv=conv, norm=norm(arrays["norm"]))
    if stage > 0:
        conv = conv2d(arrays["conv"], stride=2, padding=1)
        return Node(biformer.conv_norm, conv=conv, norm=norm(arrays["norm"]))
    return Node(
        biformer.overlapping_stem,
        conv1=conv2d(arrays["conv1"], stride=2, padding=1),
        norm1=norm(arrays["norm1"]),
        act=gelu,
        conv2=conv2d(arrays["conv2"], stride=2, padding=1),
        norm2=norm(arrays["norm2"]),
    )


def _block(config: BiFormerConfig, stage: int, arrays: dict[str, Any], backend: Any) -> Node:
    layers = {
        "norm1": layer_norm(arrays["norm1"], config.layer_norm_eps),
        "attention": _attention(config, stage, arrays["attention"], backend),
        "drop_path": _identity,
        "norm2": layer_norm(arrays["norm2"], config.layer_norm_eps),
        "mlp": Node(
            biformer.mlp,
            fc1=linear(arrays["mlp"]["fc1"]),
            act=gelu,
            fc2=linear(arrays["mlp"]["fc2"]),
        ),
    }
    if config.layout == "biformer":
        layers["position"] = depthwise(arrays["position"])
    return Node(biformer.BLOCK[config.layout], **layers)


def _attention(config: BiFormerConfig, stage: int, arrays: dict[str, Any], backend: Any) -> Node:
    dim, topk = config.embed_dims[stage], config.topk[stage]
    layers = {
        "qkv": linear(arrays["qkv"]),
        "lce": depthwise(arrays["lce"]),
        "proj": linear(arrays["proj"]),
        "backend": backend,
    }
    if topk is None:
        return Node(
            biformer.full_attention,
            num_heads=FULL_ATTENTION_HEADS,
            scale=(dim // FULL_ATTENTION_HEADS) ** -0.5,
            lce_on_values=config.variant == "nchw",
            **layers,
        )
    return Node(
        biformer.ROUTED_ATTENTION[config.padding, config.variant],
        num_heads=dim // config.head_dim,
        topk=topk,
        regions=(config.regions, config.regions),
        scale=dim**-0.5,
        pad=pad,
        **layers,
    )


def linear(arrays: dict[str, Array]) -> Callable[[Array], Array]:
    """``x @ weight.T + bias``; the bias may be missing."""
    weight, bias = arrays["weight"].T, arrays.get("bias", 0)
    return lambda x: x @ weight + bias


def conv2d(arrays: dict[str, Array], stride: int, padding: int) -> Callable[[Array], Array]:
    """A convolution as a sum over the kernel's taps, each a matrix product."""
    weight, bias = arrays["weight"], arrays["bias"]

    def apply(x: Array) -> Array:
        taps = _taps(x, weight.shape[-2:], stride, padding)
        return sum(tap @ weight[:, :, i, j].T for i, j, tap in taps) + bias

    return apply


def depthwise(arrays: dict[str, Array]) -> Callable[[Array], Array]:
    """A convolution of each channel on its own, which keeps the size of the map."""
    weight, bias = arrays["weight"], arrays["bias"]

    def apply(x: Array) -> Array:
        taps = _taps(x, weight.shape[-2:], 1, weight.shape[-1] // 2)
        return sum(tap * weight[:, 0, i, j] for i, j, tap in taps) + bias

    return apply


def _taps(x: Array, kernel: tuple[int, int], stride: int, padding: int) -> Any:
    """For each place (i, j) of a kernel, the tokens it meets as the kernel moves over the map."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel, strict=True))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield i, j, x[:, i : i + stride * h : stride, j : j + stride * w : stride]


def pad(x: Array, size: tuple[int, int]) -> Array:
    """Zeros after the last row and column, up to a height and width."""
    h, w = x.shape[1:3]
    return np.pad(x, ((0, 0), (0, size[0] - h), (0, size[1] - w), (0, 0)))


def batch_norm(arrays: dict[str, Array], batch_stats: bool) -> Callable[[Array], Array]:
    """Normalisation of each channel over all images and places, or by the running statistics."""

    def apply(x: Array) -> Array:
        mean = x.mean((0, 1, 2)) if batch_stats else arrays["running_mean"]
        var = x.var((0, 1, 2)) if batch_stats else arrays["running_var"]
        scale = arrays["weight"] / np.sqrt(var + BATCH_NORM_EPS)
        return (x - mean) * scale + arrays["bias"]

    return apply


def layer_norm(arrays: dict[str, Array], eps: float) -> Callable[[Array], Array]:
    """Normalisation of each token over its channels."""

    def apply(x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        var = (centred * centred).mean(-1, keepdims=True)
        return centred / np.sqrt(var + eps) * arrays["weight"] + arrays["bias"]

    return apply


def gelu(x: Array) -> Array:
    """``x * (1 + erf(x / sqrt(2))) / 2``, exactly."""
    return x * (1 + erf(x * math.sqrt(0.5))) / 2


def erf(x: Array) -> Array:
    """The error function, from the standard library: NumPy has none."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), x.dtype)
