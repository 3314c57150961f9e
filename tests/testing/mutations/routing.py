"""Broken routing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bilevel import Backend, Routes
from bilevel.testing import arrays
from tests.testing.mutations.common import Array, Mutation, converted, dtype_name


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
