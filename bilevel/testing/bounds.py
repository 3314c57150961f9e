"""How far a result may be from the exact one: bounds that follow from rounding alone.

Notation of N. Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 3: u is the unit
roundoff, and a sum or inner product of n terms in any order is off by at most n * u times the sum
of the terms' absolute values.
"""

from __future__ import annotations

from math import expm1

import numpy as np

from bilevel.grid import Grid
from bilevel.testing.arrays import NumpyArray
from bilevel.testing.reference import means

ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Half the distance from 1 to the next number: the relative error of one rounding."""

UNDERFLOW = {"float16": 2.0**-25}
"""Half the distance from 0 to the next number, where tokens come near it."""


def accumulator(dtype: str) -> str:
    """The dtype of means, scores and sums."""
    return "float64" if dtype == "float64" else "float32"


def largest(x: NumpyArray) -> float:
    """The largest absolute value; 0 for an empty array."""
    return float(np.abs(x).max(initial=0.0))


def summary_bound(x: NumpyArray, grid: Grid, dtype: str) -> float:
    """For the means of the tokens of each region: a sum of T terms and a division."""
    u = ROUNDOFF[accumulator(dtype)]
    return (grid.region_tokens + 2) * u * largest(means(np.abs(x), grid))


def routing_bound(q_mean: NumpyArray, k_mean: NumpyArray, dtype: str, tokens: int = 0) -> float:
    """For products of means of ``tokens`` tokens each; pass the means of absolute values.

    A mean is off by (tokens + 2) u, both factors are means, and C products are summed.
    """
    u = ROUNDOFF[accumulator(dtype)]
    terms = q_mean.shape[-1] + 2 * (tokens + 2 if tokens else 0)
    return 1.01 * terms * u * largest(np.abs(q_mean) @ np.abs(k_mean).swapaxes(1, 2))


def score_bound(q: NumpyArray, k: NumpyArray, scale: float, dtype: str) -> float:
    """For ``q @ k * scale``, less the largest score of its row, before the exponential.

    D products are summed and scaled; subtracting may double the size before one more rounding.
    """
    u = ROUNDOFF[accumulator(dtype)]
    return (q.shape[-1] + 4) * u * largest_score(q, k, scale)


def largest_score(q: NumpyArray, k: NumpyArray, scale: float) -> float:
    """No score of any token of q ``(N, *, M, D)`` and k ``(N, *, M, D)`` is larger."""
    q_max, k_max = (np.abs(x).max(tuple(range(1, x.ndim - 2)), initial=0.0) for x in (q, k))
    return abs(scale) * largest((q_max * k_max).sum(-1))


def attention_bound(
    q: NumpyArray, k: NumpyArray, v: NumpyArray, scale: float, dtype: str, keys: int
) -> float:
    """For attention to at most ``keys`` tokens, before its result is rounded to ``dtype``.

    An error s in the scores multiplies a weight by exp(s) at most, and likewise the sum of
    weights; exponential, two sums over the keys and the division add 2 * keys + 10 roundings.
    Weights may be held in ``dtype``, as products of matrices take them.
    """
    u = ROUNDOFF[accumulator(dtype)]
    scores = score_bound(q, k, scale, dtype)
    weights = ROUNDOFF[dtype] + UNDERFLOW.get(dtype, 0.0) * keys
    return (expm1(2 * scores + (2 * keys + 10) * u) + weights) * largest(v)


def rounding_bound(x: NumpyArray, dtype: str) -> NumpyArray:
    """For each value of ``x``, rounded once to ``dtype``: what storing the result costs."""
    return 1.01 * ROUNDOFF[dtype] * np.abs(x) + UNDERFLOW.get(dtype, 0.0)


def gradient_bounds(
    q: NumpyArray,
    k: NumpyArray,
    v: NumpyArray,
    d_out: NumpyArray,
    scale: float,
    dtype: str,
    keys: int,
) -> tuple[float, float, float]:
    """For the gradients of q, k and v, before they are rounded to ``dtype``.

    With weights p, dv = p.T do and ds = p (do v.T - rowsum(do o)): products of D values, and for
    dk and dv sums over at most all queries. Output, weights and ds may be held in ``dtype``.
    """
    u = ROUNDOFF[accumulator(dtype)]
    queries, size = q[0, ..., 0, 0].size, v.shape[-1] * largest(d_out) * largest(v)
    weight = expm1(2 * score_bound(q, k, scale, dtype) + (2 * keys + 10) * u)
    relative = weight + (queries + keys + v.shape[-1] + 10) * u + 4 * ROUNDOFF[dtype]
    d_scores = 2 * size * abs(scale) * relative
    return (
        d_scores * largest(k),
        d_scores * largest(q) * queries,
        relative * largest(d_out) * queries,
    )


def logsumexp_bound(q: NumpyArray, k: NumpyArray, scale: float, dtype: str, keys: int) -> float:
    """For the logarithm of the softmax's denominator."""
    u = ROUNDOFF[accumulator(dtype)]
    size = largest_score(q, k, scale) + np.log(keys)
    return float(score_bound(q, k, scale, dtype) + (keys + 10) * u + 2 * u * size)
