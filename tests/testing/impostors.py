"""Backends that pass for Bi-Level Routing Attention and do not route, and what gives them away.

Each breaks what bra as a whole does: by primitives that do not do what they say, or by a fused
``bra`` or ``bra_routes`` beside primitives that are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from bilevel import Backend, Grid, Routed, compose
from tests.testing.mutations.common import Array, Mutation, converted
from tests.testing.mutations.gathering import attends_to_all_regions
from tests.testing.mutations.routing import other_routes


def every_region(b: Backend, index: Array, regions: int) -> Array:
    """Routes of every query region to all key regions."""
    return converted(b, np.broadcast_to(np.arange(regions), (*index.shape[:2], regions)))


def dense_in_the_fused(b: Backend) -> Backend:
    """The fused bra attends to everything."""

    def bra(q: Array, k: Array, v: Array, routed: Routed) -> Array:
        index = every_region(b, routed.index, routed.k_grid.num_regions)
        return compose.bra(b, q, k, v, routed._replace(index=index))

    return replace(b, bra=bra)


def dense_in_everything(b: Backend) -> Backend:
    """Gather, key_mask and what is fused from them attend to everything, all alike."""
    return fused(attends_to_all_regions(b))


def fused(b: Backend) -> Backend:
    """With the compositions of its primitives in the place of fused functions."""
    return replace(b, bra=partial(compose.bra, b), bra_routes=partial(compose.bra_routes, b))


def one_region_short(b: Backend) -> Backend:
    """The fused bra leaves out the last route."""
    return fused_with_index(lambda index, *_: index[:, :, : max(1, index.shape[2] - 1)])(b)


def topk_is_all(b: Backend) -> Backend:
    """route keeps all regions, whatever topk is."""
    return replace(b, route=lambda q, k, topk: b.route(q, k, k.shape[1]))


def topk_is_one_less(b: Backend) -> Backend:
    """route keeps topk - 1 regions."""
    return replace(b, route=lambda q, k, topk: b.route(q, k, max(1, topk - 1)))


def always_the_first_regions(b: Backend) -> Backend:
    """No look at the tokens."""

    def choose(score: np.ndarray, topk: int) -> np.ndarray:
        return np.broadcast_to(np.arange(topk), (*score.shape[:2], topk))

    return other_routes(choose)(b)


def at_random(b: Backend) -> Backend:
    """Other routes at each call."""
    rng = np.random.default_rng(0)
    return other_routes(lambda s, topk: rng.random(s.shape).argsort(-1)[..., :topk])(b)


def at_random_by_the_shape(b: Backend) -> Backend:
    """The same routes at each call, though of no relation to the tokens."""

    def choose(score: np.ndarray, topk: int) -> np.ndarray:
        return np.random.default_rng(0).random(score.shape).argsort(-1)[..., :topk]

    return other_routes(choose)(b)


def fused_routes_to_the_first(b: Backend) -> Backend:
    """The primitives route; bra_routes does not."""
    return replace(b, bra_routes=partial(compose.bra_routes, always_the_first_regions(b)))


def given_routes_are_ignored(b: Backend) -> Backend:
    """The fused bra routes by itself, with the number of routes that it is given."""

    def own(index: Array, q: Array, k: Array, q_grid: Grid, k_grid: Grid) -> Array:
        return compose.bra_routes(b, q, k, q_grid, k_grid, index.shape[2]).index

    return fused_with_index(own)(b)


def fused_with_index(change: Callable[..., Array]) -> Mutation:
    """A fused bra that follows ``change(index, q, k, q_grid, k_grid)``."""

    def impostor(b: Backend) -> Backend:
        def bra(q: Array, k: Array, v: Array, routed: Routed) -> Array:
            index = change(routed.index, q, k, routed.q_grid, routed.k_grid)
            return compose.bra(b, q, k, v, routed._replace(index=index))

        return replace(b, bra=bra)

    return impostor


IMPOSTORS: dict[Mutation, tuple[str, ...]] = {
    attends_to_all_regions: ("bra_follows_its_routes", "gather_takes_the_routed_regions"),
    dense_in_the_fused: ("bra_follows_its_routes", "bra_is_the_primitives_composed"),
    dense_in_everything: ("bra_follows_its_routes", "keys_reach_only_queries_routed_to_them"),
    one_region_short: ("topk_of_all_regions_is_dense_attention", "bra_is_the_primitives_composed"),
    topk_is_all: ("results_are_of_the_kind_promised",),
    topk_is_one_less: ("results_are_of_the_kind_promised",),
    always_the_first_regions: ("bra_follows_its_routes", "scores_are_products_of_means"),
    at_random: ("bra_follows_its_routes", "same_call_gives_the_same_bits"),
    at_random_by_the_shape: ("bra_follows_its_routes", "permuting_key_regions_permutes_routes"),
    fused_routes_to_the_first: ("bra_follows_its_routes", "bra_routes_as_route_does"),
    given_routes_are_ignored: ("given_routes_are_used", "keys_reach_only_queries_routed_to_them"),
}
"""What each is found by, among others."""
