"""Broken where all comes together: what is fused or exchanged, and what is not pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from bilevel import Attended, Backend, Grid, Routed, compose
from bilevel.testing import arrays
from tests.testing.mutations.attention import softmax_in_half_precision
from tests.testing.mutations.common import Array, converted, dtype_name
from tests.testing.mutations.routing import ties_to_the_higher_region


def fused_with_another_scale(b: Backend) -> Backend:
    """The fused bra forgets the scale it is given."""

    def bra(q: Array, k: Array, v: Array, routed: Routed) -> Array:
        return compose.bra(b, q, k, v, routed._replace(scale=q.shape[-1] ** -0.5))

    return replace(b, bra=bra)


def fused_in_half_precision(b: Backend) -> Backend:
    """The softmax of the fused bra is held in float16; that of attend is not."""
    return replace(b, bra=partial(compose.bra, softmax_in_half_precision(b)))


def fused_routes_break_ties_upward(b: Backend) -> Backend:
    return replace(b, bra_routes=partial(compose.bra_routes, ties_to_the_higher_region(b)))


def extent_of_the_first_column(b: Backend) -> Backend:
    return replace(b, extent=lambda index: b.extent(index[:, :, :1]))


def exchange_loses_digits(b: Backend) -> Backend:
    """Through float16, as if that were the dtype of models."""
    assert b.exchange is not None
    take = b.exchange.take

    def half(x: Array) -> Array:
        return take(x.astype(np.float16).astype(x.dtype) if x.dtype.kind == "f" else x)

    return replace(b, exchange=b.exchange._replace(take=half))


def queries_are_scaled_in_place(b: Backend) -> Backend:
    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        q *= scale
        return b.attend(q, k, v, mask, 1.0)

    return replace(b, attend=attend)


def routes_are_sorted_in_place(b: Backend) -> Backend:
    def gather(x: Array, index: Array) -> Array:
        index[...] = converted(b, np.sort(arrays.to_numpy(index)))
        return b.gather(x, index)

    return replace(b, gather=gather)


def sums_in_random_order(b: Backend) -> Backend:
    """Atomic additions: right each time, though not the same."""
    rng = np.random.default_rng(0)

    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        order = rng.permutation(k.shape[2]).tolist()
        mask = None if mask is None else mask[:, :, order]
        return b.attend(q, k[:, :, order], v[:, :, order], mask, scale)

    return replace(b, attend=attend)


def strides_are_ignored(b: Backend) -> Backend:
    """A kernel that takes the address of the first token and counts on."""

    def contiguous(x: Array) -> Array:
        if not isinstance(x, np.ndarray):
            return x.as_strided(x.shape, x.new_empty(x.shape).stride())
        strides = np.empty(x.shape, x.dtype).strides
        return np.lib.stride_tricks.as_strided(x, x.shape, strides)

    return replace(b, partition=lambda x, grid: b.partition(contiguous(x), grid))


def images_one_by_one(b: Backend) -> Backend:
    """Nothing to stack where there is no image."""

    def partition(x: Array, grid: Grid) -> Array:
        whole = [arrays.to_numpy(b.partition(x[i : i + 1], grid)) for i in range(x.shape[0])]
        return converted(b, np.concatenate(whole), dtype_name(x))

    return replace(b, partition=partition)


def output_stays_wide(b: Backend) -> Backend:
    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        out, lse = b.attend(q, k, v, mask, scale)
        return Attended(converted(b, arrays.to_numpy(out), dtype_name(lse)), lse)

    return replace(b, attend=attend)


def queries_leak_within_their_region(b: Backend) -> Backend:
    """A NaN query spoils its whole region."""

    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        return b.attend(q + 0 * q.sum(2)[:, :, None], k, v, mask, scale)

    return replace(b, attend=attend)
