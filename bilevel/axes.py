"""The axes of an array, which torch, NumPy, CuPy and the array API standard move by other calls.

Attention, layer normalisation and linear layers take ``(N, *spatial, C)``. Convolutions and batch
normalisation take ``(N, C, *spatial)``, as in torch, whose tools rely on it. One is a view of the
other: memory stays in the order ``(N, *spatial, C)``, which torch calls channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bilevel.protocol import Array


def channels_first(x: Array) -> Array:
    """A view ``(N, C, *spatial)`` of ``(N, *spatial, C)``."""
    last = len(x.shape) - 1
    return _permuted(x, (0, last, *range(1, last)))


def channels_last(x: Array) -> Array:
    """A view ``(N, *spatial, C)`` of ``(N, C, *spatial)``."""
    return _permuted(x, (0, *range(2, len(x.shape)), 1))


def convolved(conv: Callable[[Array], Array], x: Array) -> Array:
    """A convolution, which takes ``(N, C, *spatial)``, of tokens ``(N, *spatial, C)``."""
    return channels_last(conv(channels_first(x)))


def reshaped(x: Array, shape: Sequence[int]) -> Array:
    """``x.reshape(shape)``, of which the array API standard has the function alone."""
    if has_method(x, "reshape"):
        return x.reshape(shape)
    return x.__array_namespace__().reshape(x, shape)


def has_method(x: Array, name: str) -> bool:
    """Whether arrays of this kind have a method.

    The type is asked: torch.compile up to torch 2.9 finds no method on an array that it traces.
    """
    return hasattr(type(x), name)


def _permuted(x: Array, axes: tuple[int, ...]) -> Array:
    """Axes count from the front: torch's older exporter to ONNX takes no others."""
    if has_method(x, "permute"):  # torch
        return x.permute(axes)
    if has_method(x, "transpose"):  # NumPy, CuPy
        return x.transpose(axes)
    return x.__array_namespace__().permute_dims(x, axes)
