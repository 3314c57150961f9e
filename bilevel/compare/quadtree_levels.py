"""One level of QuadTree attention: the coarsest map in full, or a finer one where the level above
scored best. Maps are ``(N, M, H, W, D)``."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["A", "B"]
"""See :class:`bilevel.compare.quadtree.QuadTreeAttention`."""


class Best(NamedTuple):
    """The best keys of each token, best first; tokens are those of a map, row by row."""

    score: Tensor
    """``(N, M, T, K)``"""
    token: Tensor
    """``(N, M, T, K)``, the tokens of the same map that they are."""


def coarsest(q: Tensor, k: Tensor, v: Tensor, topk: int, kind: Kind) -> tuple[Tensor, Best]:
    """What each token takes from all others, ``(N, M, T, D)``, and its best keys.

    In type A the best keys are left out of it: their children speak for them.
    """
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    best = Best(*weights.topk(min(topk, k.shape[2])))
    if kind == "A":
        weights = weights.scatter(-1, best.token, 0.0)
    return weights @ v, best


def finer(
    above: Best, q: Tensor, k: Tensor, v: Tensor, topk: int, kind: Kind, finest: bool
) -> tuple[Tensor, Best | None]:
    """The same of the next level, where a token has a quarter of the parent's best keys' children
    to look at: four for each key that its parent kept. The finest level keeps none."""
    map_size = (k.shape[2], k.shape[3])
    queries = _quads(q)  # (N, M, P, 4, D)
    keys, values = (_children(_quads(x), above.token) for x in (k, v))  # (N, M, P, K * 4, D)
    scores = queries @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
    if kind == "B":
        weights = scores.softmax(-1)
    else:
        shares = scores.unflatten(-1, (-1, 4)).softmax(-1)
        weights = (shares * above.score[:, :, :, None, :, None]).flatten(-2)
    if finest:
        return _from_quads(weights @ values, map_size), None
    score, candidate = weights.topk(topk)
    if kind == "A":
        weights = weights.scatter(-1, candidate, 0.0)
    parents = above.token[:, :, :, None].expand(*candidate.shape[:-1], -1)
    token = _place(parents.gather(-1, candidate // 4), candidate % 4, map_size[1])
    best = Best(_from_quads(score, map_size), _from_quads(token, map_size))
    return _from_quads(weights @ values, map_size), best


def _quads(x: Tensor) -> Tensor:
    """``(N, M, H, W, D)`` to the four children of each parent: ``(N, M, P, 4, D)``."""
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _from_quads(x: Tensor, map_size: tuple[int, int]) -> Tensor:
    """``(N, M, P, 4, ...)`` to tokens row by row: ``(N, M, T, ...)``."""
    x = x.unflatten(3, (2, 2)).unflatten(2, (map_size[0] // 2, map_size[1] // 2))
    return x.transpose(3, 4).flatten(2, 5)


def _children(quads: Tensor, parents: Tensor) -> Tensor:
    """The children of the parents ``(N, M, P, K)`` that were chosen: ``(N, M, P, K * 4, D)``."""
    n, m, p, k = parents.shape
    where = torch.arange(n * m, device=quads.device)[:, None, None]
    chosen = quads.flatten(0, 1)[where, parents.flatten(0, 1)]
    return chosen.reshape(n, m, p, k * 4, -1)


def _place(parent: Tensor, child: Tensor, width: int) -> Tensor:
    """The token, row by row, that is such a child of such a parent, in a map of a width."""
    row = 2 * (parent // (width // 2)) + child // 2
    column = 2 * (parent % (width // 2)) + child % 2
    return row * width + column
