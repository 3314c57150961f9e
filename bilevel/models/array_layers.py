"""The layers of a BiFormer over plain arrays: from a flat dict of them to something to call.

For inference without torch, and as the reference that the torch modules are held against. What
needs functions of an array library takes its module ``xp`` first: those that NumPy, CuPy and the
array API standard have alike. Convolutions and batch normalisation take ``(N, C, H, W)``, the
others ``(N, H, W, C)``; see :mod:`bilevel.axes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from bilevel.axes import channels_first, channels_last
from bilevel.errors import ArrayError
from bilevel.models import biformer
from bilevel.models.config import BiFormerConfig
from bilevel.models.tree import Kind, Layer, Node, tree
from bilevel.protocol import Array, Backend
from bilevel.registry import describe

BATCH_NORM_EPS = 1e-5

Function: TypeAlias = Callable[[Array], Array]


class Bound:
    """A node of the tree, bound to arrays: ``bound(x)`` is ``function(bound, x)``, which finds
    layers and values as attributes. Iteration is over its layers."""

    def __init__(self, node: Node, layers: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        self.function = node.function
        self._layers = layers
        self.__dict__.update(values, **node.values, **layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers.values())

    def __call__(self, x: Array, **options: Any) -> Array:
        assert self.function is not None, "a row of nodes is not called as one"
        return self.function(self, x, **options)


class ArrayModel(Bound):
    """A whole model, bound to arrays: images ``(N, C, H, W)`` to logits ``(N, classes)``."""

    def __init__(self, config: BiFormerConfig, library: str, *root: Any) -> None:
        super().__init__(*root)
        self.config, self.library = config, library

    def check(self, x: Array) -> None:
        """Raise ArrayError unless images are of the library of the parameters, and ShapeError
        unless they are ``(N, in_chans, H, W)``."""
        if (found := describe(x).library) != self.library:
            raise ArrayError(
                f"expected images to be a {self.library} array, as the parameters are, got {found}"
                "; convert the images or the parameters"
            )
        biformer.check_images(x, self.config.in_chans)

    def __call__(self, x: Array, **options: Any) -> Array:
        self.check(x)
        return super().__call__(x, **options)


def build(
    xp: Any,
    config: BiFormerConfig,
    params: Mapping[str, Array],
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> ArrayModel:
    """The whole model, from parameters that fit ``config``, which are arrays of ``xp``."""
    make: dict[Kind, Callable[..., Function]] = {
        "linear": linear,
        "conv": partial(conv2d, xp),
        "depthwise": partial(depthwise, xp),
        "batch_norm": partial(batch_norm, xp, batch_stats=batch_stats),
        "layer_norm": partial(layer_norm, xp),
        "identity": lambda _: _identity,
    }
    values = {
        "act": partial(gelu, xp),
        "drop_path1": _identity,
        "drop_path2": _identity,
        "pad": partial(pad, xp),
        "backend": backend,
    }

    def bound(node: Layer | Node, path: tuple[str, ...]) -> Any:
        if isinstance(node, Layer):
            arrays = {leaf: params[".".join((*path, leaf))] for leaf in node.shapes}
            return make[node.kind](arrays, **node.options)
        return Bound(node, layers(node, path), values)

    def layers(node: Node, path: tuple[str, ...] = ()) -> dict[str, Any]:
        children = node.children.items()
        return {name: bound(child, (*path, name)) for name, (_, child) in children}

    root = tree(config)
    return ArrayModel(config, xp.__name__, root, layers(root), values)


def _identity(x: Array) -> Array:
    return x


def _on_channels_last(layer: Callable[..., Function]) -> Callable[..., Function]:
    """Let a layer that computes on ``(N, H, W, C)`` take and give ``(N, C, H, W)``, by views."""

    @wraps(layer)
    def moved(*args: Any, **options: Any) -> Function:
        function = layer(*args, **options)
        return lambda x: channels_first(function(channels_last(x)))

    return moved


def linear(arrays: Mapping[str, Array]) -> Function:
    """``x @ weight.T + bias``; the bias may be missing."""
    weight, bias = arrays["weight"].T, arrays.get("bias", 0)
    return lambda x: x @ weight + bias


@_on_channels_last
def conv2d(xp: Any, arrays: Mapping[str, Array], stride: int, padding: int) -> Function:
    """A convolution as a sum over the kernel's taps, each a matrix product."""
    weight, bias = arrays["weight"], arrays["bias"]

    def apply(x: Array) -> Array:
        taps = _taps(xp, x, weight.shape[-2:], stride, padding)
        return sum(tap @ weight[:, :, i, j].T for i, j, tap in taps) + bias

    return apply


@_on_channels_last
def depthwise(xp: Any, arrays: Mapping[str, Array]) -> Function:
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


@_on_channels_last
def batch_norm(xp: Any, arrays: Mapping[str, Array], batch_stats: bool) -> Function:
    """Normalisation of each channel over all images and places, or by the running statistics."""

    def apply(x: Array) -> Array:
        mean = xp.mean(x, axis=(0, 1, 2)) if batch_stats else arrays["running_mean"]
        var = xp.var(x, axis=(0, 1, 2)) if batch_stats else arrays["running_var"]
        scale = arrays["weight"] / xp.sqrt(var + BATCH_NORM_EPS)
        return (x - mean) * scale + arrays["bias"]

    return apply


def layer_norm(xp: Any, arrays: Mapping[str, Array], eps: float) -> Function:
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
