"""Broken pullbacks, NumPy's by hand, and broken gradients of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any
from unittest import mock

import numpy as np

from bilevel import Attended, Backend, Routes
from bilevel_numpy.pullbacks import attend_pullback
from tests.testing.mutations.common import Array


def one_route_wins(b: Backend) -> Backend:
    """A key region keeps the gradient of one of the query regions that routed to it."""

    def assigned(d_rows: Array, index: Array, regions: int) -> Array:
        n, r, k = index.shape
        length, m, d = d_rows.shape[2:]
        d_x = np.zeros((n, regions, length // k, m, d), d_rows.dtype)
        rows = d_rows.reshape(n, r, k, length // k, m, d)
        d_x[np.arange(n)[:, None, None], index] = rows
        return d_x

    return _pulled_back_with(b, gather_pullback=assigned)


def gradients_stay_wide(b: Backend) -> Backend:
    return _with_pullback(b, lambda *d: tuple(x.astype(np.float64) for x in d))


def gradients_are_rounded_at_random(b: Backend) -> Backend:
    errors = cycle((1.0, 1.01, 1.02))
    return _with_pullback(
        b, lambda *d: tuple(x * x.dtype.type(next(errors)) for x in d[:2]) + d[2:]
    )


def all_regions_get_a_little(b: Backend) -> Backend:
    """A dense softmax's gradient, whose weights are small but not zero."""
    return _with_pullback(b, lambda d_q, *d: (d_q, *(x + x.dtype.type(1e-3) for x in d)))


def padding_is_weighed_in_the_gradient(b: Backend) -> Backend:
    """Padded keys and values are zero, but their weights are not."""

    def unmasked(q: Array, k: Array, v: Array, mask: Array | None, *others: Any) -> Any:
        if mask is not None:
            k, v = (x * mask[..., None, None].astype(x.dtype) for x in (k, v))
        return attend_pullback(q, k, v, None, *others)

    return _pulled_back_with(b, attend_pullback=unmasked)


def _with_pullback(b: Backend, change: Callable[..., tuple[Array, ...]]) -> Backend:
    def bra_vjp(*arguments: Any) -> tuple[Array, Any]:
        assert b.bra_vjp is not None
        out, pullback = b.bra_vjp(*arguments)
        return out, lambda d_out: change(*pullback(d_out))

    return replace(b, bra_vjp=bra_vjp)


def _pulled_back_with(b: Backend, **functions: Any) -> Backend:
    def bra_vjp(*arguments: Any) -> tuple[Array, Any]:
        assert b.bra_vjp is not None
        out, pullback = b.bra_vjp(*arguments)

        def broken(d_out: Array) -> tuple[Array, ...]:
            with mock.patch.multiple("bilevel_numpy.pullbacks", **functions):
                return pullback(d_out)

        return out, broken

    return replace(b, bra_vjp=bra_vjp)


def values_are_detached(b: Backend) -> Backend:
    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        return b.attend(q, k, v.detach(), mask, scale)

    return replace(b, attend=attend)


def scale_is_missing_from_the_gradient(b: Backend) -> Backend:
    def attend(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Attended:
        unscaled = q * scale
        return b.attend((unscaled - q).detach() + q, k, v, mask, 1.0)

    return replace(b, attend=attend)


def gradient_flows_through_routing(b: Backend) -> Backend:
    """Gathered keys weighted by their scores, straight through: values are right."""
    found: list[tuple[Array, Array]] = []

    def route(q_mean: Array, k_mean: Array, topk: int) -> Routes:
        routes = b.route(q_mean, k_mean, topk)
        score = (q_mean @ k_mean.swapaxes(1, 2)).gather(-1, routes.index)
        found.append((routes.index, score))
        return routes

    def gather(x: Array, index: Array) -> Array:
        rows = b.gather(x, index)
        if found and found[-1][0] is index:
            pull = (found[-1][1] - found[-1][1].detach()).to(x.dtype)
            rows = rows + pull.repeat_interleave(x.shape[2], -1)[..., None, None]
        return rows

    return replace(b, route=route, gather=gather)


def gradient_changes_from_call_to_call(b: Backend) -> Backend:
    """A gradient summed by atomic additions."""
    errors = cycle((1.0, 1.01))

    def attend(q: Array, *arguments: Any) -> Attended:
        if q.requires_grad:
            q = q * 1
            q.register_hook(lambda g: g * next(errors))
        return b.attend(q, *arguments)

    return replace(b, attend=attend)
