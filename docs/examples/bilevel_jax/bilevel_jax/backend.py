"""The primitives of Bi-Level Routing Attention in JAX: pure, so that jit, grad and vmap go through.

Letters: N images, M heads, D channels per head, R regions, T tokens of the largest region,
k routed regions, L = k * T.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import Attended, Backend, Grid, Problem, Routes
from bilevel.protocol import Exchange

DTYPES = ("float16", "bfloat16", "float32", "float64")
of_grid = partial(jax.jit, static_argnames="grid")  # compiled once for each shape
product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def refuses(problem: Problem) -> str | None:
    """JAX has no float64 until it is told to."""
    dtypes = DTYPES if jax.config.jax_enable_x64 else DTYPES[:-1]
    on_cpu = (problem.library, problem.device) == ("jax", "cpu")
    takes = on_cpu and problem.dtype in (*dtypes, "")
    return None if takes else f"takes only {', '.join(dtypes)} jax arrays on cpu"


@cache
def layout(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """For each token of the map, in row-major order: its region, and its place in the region."""
    token = np.indices(grid.spatial).reshape(grid.ndim, -1)
    tokens, regions = (np.array(of_axis)[:, None] for of_axis in (grid.spatial, grid.regions))
    region = ((token + 1) * regions - 1) // tokens
    place = token - region * tokens // regions
    return (
        np.ravel_multi_index(tuple(region), grid.regions),
        np.ravel_multi_index(tuple(place), grid.region_shape),
    )


@cache
def real_tokens(grid: Grid) -> np.ndarray:
    """Which places of the padded regions hold a token, bool ``(R, T)``."""
    real = np.zeros((grid.num_regions, grid.region_tokens), bool)
    real[layout(grid)] = True
    return real


@of_grid
def partition(x: jax.Array, grid: Grid) -> jax.Array:
    region, place = layout(grid)
    n, m, d = x.shape[0], *x.shape[-2:]
    padded = jnp.zeros((n, grid.num_regions, grid.region_tokens, m, d), x.dtype)
    return padded.at[:, region, place].set(x.reshape(n, len(region), m, d), unique_indices=True)


@of_grid
def merge(x: jax.Array, grid: Grid) -> jax.Array:
    region, place = layout(grid)
    return x[:, region, place].reshape(x.shape[0], *grid.spatial, *x.shape[-2:])


@of_grid
def summarize(x: jax.Array, grid: Grid) -> jax.Array:
    total = partition(wide(x), grid).sum(2)
    mean = total / real_tokens(grid).sum(1, dtype=total.dtype)[:, None, None]
    return mean.reshape(*mean.shape[:2], x.shape[-2] * x.shape[-1])


@partial(jax.jit, static_argnames="topk")
def route(q_mean: jax.Array, k_mean: jax.Array, topk: int) -> Routes:
    q_mean, k_mean = (jax.lax.stop_gradient(wide(x)) for x in (q_mean, k_mean))
    score = product("nic,njc->nij", q_mean, k_mean)
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    index = jnp.argsort(score, stable=True, descending=True)[..., :topk]
    return Routes(index, jnp.take_along_axis(score, index, axis=-1))


@jax.jit
def gather(x: jax.Array, index: jax.Array) -> jax.Array:
    n, _, t, m, d = x.shape
    rows = x[jnp.arange(n)[:, None, None], index]
    return rows.reshape(n, index.shape[1], index.shape[2] * t, m, d)


@of_grid
def key_mask(index: jax.Array, grid: Grid) -> jax.Array:
    real = jnp.asarray(real_tokens(grid))[index]
    return real.reshape(*index.shape[:2], index.shape[2] * grid.region_tokens)


@jax.jit
def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, scale: float
) -> Attended:
    dtype = q.dtype
    q, k, v = map(wide, (q, k, v))
    if mask is not None:  # what is masked may be NaN, and zero times NaN is NaN
        k, v = (jnp.where(mask[..., None, None], x, 0) for x in (k, v))
    score = product("nrtmd,nrlmd->nrtml", q, k) * scale
    if mask is not None:
        score = jnp.where(mask[:, :, None, None, :], score, -jnp.inf)
    lse = jax.nn.logsumexp(score, axis=-1)
    out = product("nrtml,nrlmd->nrtmd", jnp.exp(score - lse[..., None]), v)
    return Attended(out.astype(dtype), lse)


def wide(x: jax.Array) -> jax.Array:
    """Means, scores, softmax and sums are float32, or float64 for float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def extent(index: jax.Array) -> tuple[int, int] | None:
    """A tracer stands for arrays to come: it has no values yet."""
    if isinstance(index, jax.core.Tracer):
        return None
    values = np.asarray(index)
    return int(values.min()), int(values.max())


def take(x: Any) -> jax.Array:
    """By DLPack. JAX takes no strided views and nothing read-only: of those it takes copies."""
    is_torch = hasattr(x, "contiguous")
    return jnp.from_dlpack(x.contiguous() if is_torch else np.require(x, requirements=["C", "W"]))


BACKEND = Backend(
    name="jax",
    library="jax",
    refuses=refuses,
    partition=partition,
    merge=merge,
    summarize=summarize,
    route=route,
    gather=gather,
    key_mask=key_mask,
    attend=attend,
    vjp=jax.vjp,
    extent=extent,
    exchange=Exchange(take=take, give=lambda x: x),
)
