"""Broken attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bilevel import Attended, Backend
from bilevel.testing import arrays
from tests.testing.mutations.common import Array, Mutation, converted, dtype_name


def other_attend(attend: Callable[..., Attended]) -> Mutation:
    """``attend(b, q, k, v, mask, scale)`` in place of the backend's."""
    return lambda b: replace(b, attend=lambda *arguments: attend(b, *arguments))


def scale_is_dropped(b: Backend) -> Backend:
    return replace(b, attend=lambda q, k, v, mask, scale: b.attend(q, k, v, mask, 1.0))


def scale_is_always_the_default(b: Backend) -> Backend:
    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        return b.attend(q, k, v, mask, q.shape[-1] ** -0.5)

    return replace(b, attend=attend)


def mask_is_ignored(b: Backend) -> Backend:
    return replace(b, attend=lambda q, k, v, mask, scale: b.attend(q, k, v, None, scale))


def no_mask_hides_the_last_key(b: Backend) -> Backend:
    """A loop over full tiles only."""

    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        last = k.shape[2] - (mask is None and k.shape[2] > 1)
        return b.attend(q, k[:, :, :last], v[:, :, :last], mask, scale)

    return replace(b, attend=attend)


def lse_in_base_two(b: Backend) -> Backend:
    def attend(*arguments: Any) -> Attended:
        out, lse = b.attend(*arguments)
        return Attended(out, lse * float(np.log2(np.e)))

    return replace(b, attend=attend)


def nan_becomes_zero(b: Backend) -> Backend:
    def attend(q: Array, *arguments: Any) -> Attended:
        out, lse = b.attend(q, *arguments)
        clean = np.nan_to_num(arrays.to_numpy(out), posinf=np.inf, neginf=-np.inf)
        return Attended(converted(b, clean, dtype_name(out)), lse)

    return replace(b, attend=attend)


def masked_by_a_large_number(b: Backend) -> Backend:
    """Adds -1e4 to masked scores, as if no score were lower, and leaves values in."""

    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        bias = None if mask is None else np.where(arrays.to_numpy(mask), 0.0, -1e4)
        return plain(b, q, k, v, bias, scale)

    return replace(b, attend=attend)


def softmax_without_the_largest(b: Backend) -> Backend:
    """Overflows where scores are large."""
    return replace(b, attend=lambda *arguments: plain(b, *masked(arguments), shift=False))


def softmax_in_half_precision(b: Backend) -> Backend:
    return replace(b, attend=lambda *arguments: plain(b, *masked(arguments), half=True))


def sums_in_the_dtype_of_the_input(b: Backend) -> Backend:
    """float16 and bfloat16 are not widened before scores and sums."""

    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        queries, keys = (x.swapaxes(2, 3) for x in (q, k))
        with np.errstate(over="ignore"):
            scores = queries @ keys.swapaxes(-1, -2) * float(scale)
        return plain(b, q, k, v, hiding(mask), 1.0, scores=arrays.to_numpy(scores))

    return replace(b, attend=attend)


def hiding(mask: Array) -> np.ndarray | None:
    return None if mask is None else np.where(arrays.to_numpy(mask), 0.0, -np.inf)


def masked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    q, k, v, mask, scale = arguments
    return q, k, v, hiding(mask), scale


def plain(
    b: Backend,
    q: Array,
    k: Array,
    v: Array,
    bias: np.ndarray | None,
    scale: float,
    *,
    scores: np.ndarray | None = None,
    shift: bool = True,
    half: bool = False,
) -> Attended:
    """Attention in float64, with a bias ``(N, R, L)`` and one thing or another gone wrong."""
    values = arrays.to_numpy(v).swapaxes(2, 3)
    with np.errstate(all="ignore"):
        if scores is None:
            queries, keys = (arrays.to_numpy(x).swapaxes(2, 3) for x in (q, k))
            scores = queries @ keys.swapaxes(-1, -2) * scale
        if bias is not None:
            scores = scores + bias[:, :, None, None]
        if half:
            scores = scores.astype(np.float16).astype(np.float64)
        top = scores.max(-1, keepdims=True) if shift else np.zeros(())
        weights = np.exp((scores - top).astype(np.float32)).astype(np.float64)
        total = weights.astype(np.float32).sum(-1, keepdims=True).astype(np.float64)
        out = (weights @ values / total).swapaxes(2, 3)
        lse = (np.log(total) + top)[..., 0].swapaxes(2, 3)
    name = dtype_name(q)
    wide = "float64" if name == "float64" else "float32"
    return Attended(converted(b, out, name), converted(b, lse, wide))
