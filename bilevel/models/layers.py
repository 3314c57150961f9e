"""The layers of a BiFormer over plain arrays: from a flat dict of them to something to call.

For inference without torch, and as the reference that the torch modules are held against. What
needs functions of an array library takes its module ``xp`` first: those that NumPy, CuPy and the
array API standard have alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
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
    xp: Any,
    config: BiFormerConfig,
    params: Mapping[str, Array],
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> Node:
    """The whole model, ``(N, H, W, C)`` images to logits, from parameters that fit ``config``."""
    tree = _nest(params)
    norm = partial(batch_norm, xp, batch_stats=batch_stats)
    downsamples = [
        _downsample(xp, config, stage, tree["downsamples"][str(stage)], norm)
        for stage in range(len(config.depths))
    ]
    stages = [
        partial(
            biformer.stage,
            [
                _block(xp, config, stage, tree["stages"][str(stage)][str(block)], backend)
                for block in range(depth)
            ],
        )
        for stage, depth in enumerate(config.depths)
    ]
    return Node(
        lambda p, x: p.head(xp.mean(biformer.features(p, x), axis=(1, 2))),
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


def _downsample(
    xp: Any, config: BiFormerConfig, stage: int, arrays: dict[str, Any], norm: Any
) -> Node:
    if config.layout == "stl":
        function = biformer.conv_norm if stage == 0 else biformer.norm_conv
        stride = 4 if stage == 0 else 2
        conv = conv2d(xp, arrays["conv"], stride, padding=0)
        return Node(function, conv=conv, norm=norm(arrays["norm"]))
    if stage > 0:
        conv = conv2d(xp, arrays["conv"], stride=2, padding=1)
        return Node(biformer.conv_norm, conv=conv, norm=norm(arrays["norm"]))
    return Node(
        biformer.overlapping_stem,
        conv1=conv2d(xp, arrays["conv1"], stride=2, padding=1),
        norm1=norm(arrays["norm1"]),
        act=partial(gelu, xp),
        conv2=conv2d(xp, arrays["conv2"], stride=2, padding=1),
        norm2=norm(arrays["norm2"]),
    )


def _block(
    xp: Any, config: BiFormerConfig, stage: int, arrays: dict[str, Any], backend: Any
) -> Node:
    layers = {
        "norm1": layer_norm(xp, arrays["norm1"], config.layer_norm_eps),
        "attention": _attention(xp, config, stage, arrays["attention"], backend),
        "drop_path": _identity,
        "norm2": layer_norm(xp, arrays["norm2"], config.layer_norm_eps),
        "mlp": Node(
            biformer.mlp,
            fc1=linear(arrays["mlp"]["fc1"]),
            act=partial(gelu, xp),
            fc2=linear(arrays["mlp"]["fc2"]),
        ),
    }
    if config.layout == "biformer":
        layers["position"] = depthwise(xp, arrays["position"])
    return Node(biformer.BLOCK[config.layout], **layers)


def _attention(
    xp: Any, config: BiFormerConfig, stage: int, arrays: dict[str, Any], backend: Any
) -> Node:
    dim, topk = config.embed_dims[stage], config.topk[stage]
    layers = {
        "qkv": linear(arrays["qkv"]),
        "lce": depthwise(xp, arrays["lce"]),
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
        pad=partial(pad, xp),
        **layers,
    )


def linear(arrays: dict[str, Array]) -> Callable[[Array], Array]:
    """``x @ weight.T + bias``; the bias may be missing."""
    weight, bias = arrays["weight"].T, arrays.get("bias", 0)
    return lambda x: x @ weight + bias


def conv2d(
    xp: Any, arrays: dict[str, Array], stride: int, padding: int
) -> Callable[[Array], Array]:
    """A convolution as a sum over the kernel's taps, each a matrix product."""
    weight, bias = arrays["weight"], arrays["bias"]

    def apply(x: Array) -> Array:
        taps = _taps(xp, x, weight.shape[-2:], stride, padding)
        return sum(tap @ weight[:, :, i, j].T for i, j, tap in taps) + bias

    return apply


def depthwise(xp: Any, arrays: dict[str, Array]) -> Callable[[Array], Array]:
    """A convolution of each channel on its own, which keeps the size of the map."""
    weight, bias = arrays["weight"], arrays["bias"]

    def apply(x: Array) -> Array:
        taps = _taps(xp, x, weight.shape[-2:], 1, weight.shape[-1] // 2)
        return sum(tap * weight[:, 0, i, j] for i, j, tap in taps) + bias

    return apply


def _taps(xp: Any, x: Array, kernel: tuple[int, int], stride: int, padding: int) -> Any:
    """For each place (i, j) of a kernel, the tokens it meets as the kernel moves over the map."""
    height, width = x.shape[1:3]
    x = _amid_zeros(xp, x, (height + 2 * padding, width + 2 * padding), padding)
    # From the first place of the first token to that of the last.
    down, across = (
        (n - k) // stride * stride + 1 for n, k in zip(x.shape[1:3], kernel, strict=True)
    )
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield i, j, x[:, i : i + down : stride, j : j + across : stride, :]


def pad(xp: Any, x: Array, size: tuple[int, int]) -> Array:
    """Zeros after the last row and column, up to a height and width."""
    return _amid_zeros(xp, x, size, 0)


def _amid_zeros(xp: Any, x: Array, size: tuple[int, int], first: int) -> Array:
    """A map of zeros of a height and width, with ``x`` in it from a row and column on."""
    n, h, w, c = x.shape
    padded = xp.zeros((n, *size, c), dtype=x.dtype)
    padded[:, first : first + h, first : first + w, :] = x
    return padded


def batch_norm(xp: Any, arrays: dict[str, Array], batch_stats: bool) -> Callable[[Array], Array]:
    """Normalisation of each channel over all images and places, or by the running statistics."""

    def apply(x: Array) -> Array:
        mean = xp.mean(x, axis=(0, 1, 2)) if batch_stats else arrays["running_mean"]
        var = xp.var(x, axis=(0, 1, 2)) if batch_stats else arrays["running_var"]
        scale = arrays["weight"] / xp.sqrt(var + BATCH_NORM_EPS)
        return (x - mean) * scale + arrays["bias"]

    return apply


def layer_norm(xp: Any, arrays: dict[str, Array], eps: float) -> Callable[[Array], Array]:
    """Normalisation of each token over its channels."""

    def apply(x: Array) -> Array:
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        var = xp.mean(centred * centred, axis=-1, keepdims=True)
        return centred / xp.sqrt(var + eps) * arrays["weight"] + arrays["bias"]

    return apply


def gelu(xp: Any, x: Array) -> Array:
    """``x * (1 + erf(x / sqrt(2))) / 2``, exactly."""
    return x * (1 + erf(xp, x * math.sqrt(0.5))) / 2


def erf(xp: Any, x: Array) -> Array:
    """The error function: CuPy's on a GPU; else from the standard library, for NumPy has none."""
    if xp.__name__ == "cupy":
        return import_module("cupyx.scipy.special").erf(x)
    values = np.frompyfunc(math.erf, 1, 1)(np.asarray(x))
    return xp.asarray(values.astype(np.float64), dtype=x.dtype)
