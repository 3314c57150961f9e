"""Backends broken on purpose, the way real ones break, and the properties that notice.

A mutation takes a backend and returns one that is wrong. Where it can it uses only what NumPy and
torch have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, TypeAlias
from unittest import mock

import numpy as np

from bilevel import Attended, Backend, Grid, Routes, compose
from bilevel.testing import arrays

Array: TypeAlias = Any
Mutation: TypeAlias = Callable[[Backend], Backend]


def converted(b: Backend, x: np.ndarray, dtype: str | None = None) -> Array:
    """A NumPy array in the library of the backend, writable."""
    return arrays.contiguous_copy(arrays.from_numpy(x, arrays.home_of(b), dtype))


def dtype_name(x: Array) -> str:
    return str(x.dtype).rpartition(".")[-1]


# --- regions


def regions_of_fixed_size(b: Backend) -> Backend:
    """ceil(n / s) tokens in every region but the last."""

    def partition(x: Array, grid: Grid) -> Array:
        values = arrays.to_numpy(x)
        for i, (tokens, regions, size) in enumerate(grid.axes, start=1):
            pad = [(0, 0)] * values.ndim
            pad[i] = (0, regions * size - tokens)
            values = np.pad(values, pad)
        whole = Grid(values.shape[1:-2], grid.regions)
        return b.partition(converted(b, values, dtype_name(x)), whole)

    return replace(b, partition=partition)


def padding_repeats_the_last_token(b: Backend) -> Backend:
    def partition(x: Array, grid: Grid) -> Array:
        out = arrays.to_numpy(b.partition(x, grid)).copy()
        real = arrays.to_numpy(b.partition(x * 0 + 1, grid)) != 0
        last = arrays.to_numpy(x)[(slice(None), *[-1] * grid.ndim)]
        out = np.where(real, out, last[:, None, None])
        return converted(b, out, dtype_name(x))

    return replace(b, partition=partition)


def regions_in_column_major_order(b: Backend) -> Backend:
    def order(grid: Grid) -> list[int]:
        return np.arange(grid.num_regions).reshape(grid.regions).ravel(order="F").tolist()

    return replace(b, partition=lambda x, grid: b.partition(x, grid)[:, order(grid)])


def merge_transposes_axes(b: Backend) -> Backend:
    def merge(x: Array, grid: Grid) -> Array:
        order = np.arange(grid.num_regions).reshape(grid.regions).ravel(order="F")
        return b.merge(x[:, order.tolist()], grid)

    return replace(b, merge=merge)


def padding_counts_in_the_mean(b: Backend) -> Backend:
    def summarize(x: Array, grid: Grid) -> Array:
        mean = b.summarize(x, grid)
        real = arrays.to_numpy(b.partition(x * 0 + 1, grid))[:, :, :, 0, 0].sum(-1)
        share = real / grid.region_tokens
        return mean * converted(b, share[:, :, None], dtype_name(mean))

    return replace(b, summarize=summarize)


# --- routing


def other_routes(choose: Callable[[np.ndarray, int], np.ndarray]) -> Mutation:
    """Routes chosen by ``choose(score (N, R, Rk), topk)``."""

    def mutation(b: Backend) -> Backend:
        def route(q_mean: Array, k_mean: Array, topk: int) -> Routes:
            everything = b.route(q_mean, k_mean, k_mean.shape[1])
            score = np.empty(tuple(everything.index.shape))
            index, best_first = map(arrays.to_numpy, everything)
            np.put_along_axis(score, index, best_first, -1)
            chosen = choose(score, topk)
            kept = np.take_along_axis(score, chosen, -1)
            return Routes(converted(b, chosen), converted(b, kept, dtype_name(everything.score)))

        return replace(b, route=route)

    return mutation


def routes_to_the_worst(b: Backend) -> Backend:
    return other_routes(lambda s, topk: np.argsort(s, -1, "stable")[..., :topk])(b)


def routes_worst_first(b: Backend) -> Backend:
    """The right regions in the wrong order."""
    best = other_routes(lambda s, topk: np.argsort(-s, -1, "stable")[..., topk - 1 :: -1])
    return best(b)


def ties_to_the_higher_region(b: Backend) -> Backend:
    def choose(score: np.ndarray, topk: int) -> np.ndarray:
        return score.shape[-1] - 1 - np.argsort(-score[..., ::-1], -1, "stable")[..., :topk]

    return other_routes(choose)(b)


def nan_first(b: Backend) -> Backend:
    """As torch.topk and a descending sort have it."""

    def route(q_mean: Array, k_mean: Array, topk: int) -> Routes:
        with np.errstate(invalid="ignore"):
            score = arrays.to_numpy(q_mean) @ arrays.to_numpy(k_mean).swapaxes(1, 2)
        score = np.where(np.isnan(score), np.inf, score)
        index = np.argsort(-score, -1, "stable")[..., :topk]
        return Routes(converted(b, index), converted(b, np.take_along_axis(score, index, -1)))

    return replace(b, route=route)


def routes_to_neighbours(b: Backend) -> Backend:
    """Local window attention: routes by position, whatever the tokens are."""

    def choose(score: np.ndarray, topk: int) -> np.ndarray:
        index = np.arange(score.shape[1])[:, None] + np.arange(topk)
        return np.broadcast_to(index % score.shape[2], (*score.shape[:2], topk))

    return other_routes(choose)(b)


def one_row_routes_for_all(b: Backend) -> Backend:
    """Every query region takes the routes of the first."""
    return other_routes(
        lambda s, topk: np.argsort(-np.broadcast_to(s[:, :1], s.shape), -1, "stable")[..., :topk]
    )(b)


def a_route_comes_twice(b: Backend) -> Backend:
    """The best region takes the place of the last one kept."""

    def choose(score: np.ndarray, topk: int) -> np.ndarray:
        index = np.argsort(-score, -1, "stable")[..., :topk]
        index[..., -1] = index[..., 0]
        return index

    return other_routes(choose)(b)


def routing_scores_are_scaled(b: Backend) -> Backend:
    def route(q_mean: Array, k_mean: Array, topk: int) -> Routes:
        index, score = b.route(q_mean, k_mean, topk)
        return Routes(index, score * q_mean.shape[-1] ** -0.5)

    return replace(b, route=route)


# --- gather and key_mask


def attends_to_all_regions(b: Backend) -> Backend:
    """Dense attention that passes for routed attention."""

    def every(index: Array, regions: int) -> Array:
        return converted(b, np.broadcast_to(np.arange(regions), (*index.shape[:2], regions)))

    return replace(
        b,
        gather=lambda x, index: b.gather(x, every(index, x.shape[1])),
        key_mask=lambda index, grid: b.key_mask(every(index, grid.num_regions), grid),
    )


def gathers_the_next_region(b: Backend) -> Backend:
    return replace(b, gather=lambda x, index: b.gather(x, (index + 1) % x.shape[1]))


def gathers_by_the_first_image(b: Backend) -> Backend:
    return replace(b, gather=lambda x, index: b.gather(x, index[:1] + 0 * index))


def gathers_by_one_hot_products(b: Backend) -> Backend:
    """Right for finite tokens, though zero times NaN is NaN."""

    def gather(x: Array, index: Array) -> Array:
        n, regions, t, m, d = x.shape
        one_hot = np.eye(regions)[arrays.to_numpy(index)]
        one_hot = one_hot.reshape(n, index.shape[1] * index.shape[2], regions)
        with np.errstate(invalid="ignore"):
            rows = converted(b, one_hot, dtype_name(x)) @ x.reshape(n, regions, t * m * d)
        return rows.reshape(n, index.shape[1], index.shape[2] * t, m, d)

    return replace(b, gather=gather)


def gathers_by_remembered_routes(b: Backend) -> Backend:
    """A cache whose key is the shape."""
    seen: dict[tuple[int, ...], Array] = {}

    def gather(x: Array, index: Array) -> Array:
        return b.gather(x, seen.setdefault((*index.shape, x.shape[1]), index))

    return replace(b, gather=gather)


def key_mask_hides_nothing(b: Backend) -> Backend:
    def key_mask(index: Array, grid: Grid) -> Array:
        mask = b.key_mask(index, grid)
        return mask | ~mask

    return replace(b, key_mask=key_mask)


# --- attend


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


# --- what is fused, read or exchanged


def fused_with_another_scale(b: Backend) -> Backend:
    """The fused bra forgets the scale it is given."""

    def bra(q: Array, k: Array, v: Array, *how: Any) -> Array:
        return compose.bra(b, q, k, v, *how[:-1], q.shape[-1] ** -0.5)

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


# --- purity


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


# --- pullbacks: NumPy's, by hand


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


def _with_pullback(b: Backend, change: Callable[..., tuple[Array, ...]]) -> Backend:
    def bra_vjp(*arguments: Any) -> tuple[Array, Any]:
        assert b.bra_vjp is not None
        out, pullback = b.bra_vjp(*arguments)
        return out, lambda d_out: change(*pullback(d_out))

    return replace(b, bra_vjp=bra_vjp)


def _pulled_back_with(b: Backend, **functions: Callable[..., Array]) -> Backend:
    def bra_vjp(*arguments: Any) -> tuple[Array, Any]:
        assert b.bra_vjp is not None
        out, pullback = b.bra_vjp(*arguments)

        def broken(d_out: Array) -> tuple[Array, ...]:
            with mock.patch.multiple("bilevel_numpy.pullbacks", **functions):
                return pullback(d_out)

        return out, broken

    return replace(b, bra_vjp=bra_vjp)


# --- gradients: torch alone


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


BOTH = ("numpy", "torch")
NUMPY = ("numpy",)
TORCH = ("torch",)

MUTATIONS: tuple[tuple[Mutation, tuple[str, ...], tuple[str, ...]], ...] = (
    (regions_of_fixed_size, BOTH, ("partition_follows_the_definition", "merge_inverts_partition")),
    (padding_repeats_the_last_token, BOTH, ("partition_follows_the_definition",)),
    (
        regions_in_column_major_order,
        BOTH,
        ("partition_follows_the_definition", "bra_follows_its_routes"),
    ),
    (merge_transposes_axes, BOTH, ("merge_inverts_partition", "bra_follows_its_routes")),
    (
        padding_counts_in_the_mean,
        BOTH,
        ("summarize_is_the_mean_of_real_tokens", "agrees_with_the_reference"),
    ),
    (
        routes_to_the_worst,
        BOTH,
        (
            "scores_are_products_of_means",
            "best_first_and_ties_to_the_lower_region",
            "bra_follows_its_routes",
            "agrees_with_the_reference",
        ),
    ),
    (routes_worst_first, BOTH, ("scores_are_products_of_means", "nan_scores_come_last")),
    (ties_to_the_higher_region, BOTH, ("best_first_and_ties_to_the_lower_region",)),
    (nan_first, BOTH, ("nan_scores_come_last",)),
    (
        routes_to_neighbours,
        BOTH,
        ("permuting_key_regions_permutes_routes", "bra_follows_its_routes"),
    ),
    (
        one_row_routes_for_all,
        BOTH,
        ("permuting_query_regions_permutes_the_output", "bra_follows_its_routes"),
    ),
    (
        a_route_comes_twice,
        BOTH,
        ("topk_of_all_regions_is_dense_attention", "scores_are_products_of_means"),
    ),
    (routing_scores_are_scaled, BOTH, ("scores_are_products_of_means",)),
    (
        attends_to_all_regions,
        BOTH,
        (
            "bra_follows_its_routes",
            "given_routes_are_used",
            "agrees_with_the_reference",
            "keys_reach_only_queries_routed_to_them",
        ),
    ),
    (gathers_the_next_region, BOTH, ("gather_takes_the_routed_regions", "bra_follows_its_routes")),
    (
        gathers_by_the_first_image,
        BOTH,
        ("gather_takes_the_routed_regions", "given_routes_are_used"),
    ),
    (gathers_by_one_hot_products, BOTH, ("keys_reach_only_queries_routed_to_them",)),
    (
        gathers_by_one_hot_products,
        TORCH,
        ("gradients_pass_by_what_nobody_attends_to",),
    ),
    (gathers_by_remembered_routes, BOTH, ("given_routes_are_used",)),
    (
        key_mask_hides_nothing,
        BOTH,
        ("key_mask_marks_real_tokens", "topk_of_all_regions_is_dense_attention"),
    ),
    (
        scale_is_dropped,
        BOTH,
        ("out_is_softmax_attention", "bra_follows_its_routes", "agrees_with_the_reference"),
    ),
    (scale_is_always_the_default, BOTH, ("out_is_softmax_attention",)),
    (
        mask_is_ignored,
        BOTH,
        (
            "out_is_softmax_attention",
            "masked_places_do_not_matter",
            "topk_of_all_regions_is_dense_attention",
        ),
    ),
    (no_mask_hides_the_last_key, BOTH, ("no_mask_is_all_true",)),
    (lse_in_base_two, BOTH, ("lse_is_the_natural_logsumexp",)),
    (nan_becomes_zero, BOTH, ("keys_reach_only_queries_routed_to_them",)),
    (masked_by_a_large_number, BOTH, ("masked_places_do_not_matter",)),
    (softmax_without_the_largest, BOTH, ("out_is_softmax_attention",)),
    (
        softmax_in_half_precision,
        BOTH,
        ("out_is_softmax_attention", "error_is_within_the_budget", "lse_is_the_natural_logsumexp"),
    ),
    (sums_in_the_dtype_of_the_input, BOTH, ("out_is_softmax_attention",)),
    (fused_with_another_scale, BOTH, ("bra_is_the_primitives_composed",)),
    (fused_in_half_precision, BOTH, ("error_of_bra_is_within_the_budget",)),
    (fused_routes_break_ties_upward, BOTH, ("bra_routes_as_route_does",)),
    (extent_of_the_first_column, BOTH, ("extent_is_right_or_none",)),
    (exchange_loses_digits, BOTH, ("exchanged_arrays_keep_their_bits",)),
    (queries_are_scaled_in_place, BOTH, ("inputs_are_unchanged",)),
    (routes_are_sorted_in_place, BOTH, ("inputs_are_unchanged",)),
    (sums_in_random_order, BOTH, ("same_call_gives_the_same_bits",)),
    (strides_are_ignored, BOTH, ("views_give_what_copies_give",)),
    (images_one_by_one, BOTH, ("no_images_give_no_output",)),
    (output_stays_wide, BOTH, ("results_are_of_the_kind_promised",)),
    (queries_leak_within_their_region, BOTH, ("queries_reach_only_their_own_output",)),
    (
        one_route_wins,
        NUMPY,
        ("pullback_matches_finite_differences", "pullback_agrees_with_the_reference"),
    ),
    (gradients_stay_wide, NUMPY, ("same_pullback_gives_the_same_bits",)),
    (gradients_are_rounded_at_random, NUMPY, ("same_pullback_gives_the_same_bits",)),
    (all_regions_get_a_little, NUMPY, ("pullback_passes_by_what_nobody_attends_to",)),
    (
        values_are_detached,
        TORCH,
        (
            "gradients_match_finite_differences",
            "pullback_matches_finite_differences",
            "pullback_agrees_with_the_reference",
        ),
    ),
    (
        scale_is_missing_from_the_gradient,
        TORCH,
        ("gradients_match_finite_differences", "pullback_matches_finite_differences"),
    ),
    (gradient_flows_through_routing, TORCH, ("no_gradient_flows_through_routing",)),
    (gradient_changes_from_call_to_call, TORCH, ("same_call_gives_the_same_gradients",)),
)
