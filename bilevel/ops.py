"""The public functions: each checks its arguments once, then calls the backend.

Words and letters are the same everywhere: N images, spatial axes, M heads, D channels per head,
R regions, T tokens of the largest region, k routed regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

from bilevel import array_checks as check
from bilevel import compose
from bilevel.errors import ShapeError
from bilevel.exchange import resolve
from bilevel.grid import Grid
from bilevel.protocol import Array, ArrayT, Attended, Backend, Pullback, Routed, Routes


@overload
def bra(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    *,
    topk: int = 4,
    regions: int | Sequence[int] = 7,
    scale: float | None = None,
    routes: ArrayT | None = None,
    kv_regions: int | Sequence[int] | None = None,
    backend: str | Backend | None = None,
    return_routes: Literal[False] = False,
) -> ArrayT: ...


@overload
def bra(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    *,
    topk: int = 4,
    regions: int | Sequence[int] = 7,
    scale: float | None = None,
    routes: ArrayT | None = None,
    kv_regions: int | Sequence[int] | None = None,
    backend: str | Backend | None = None,
    return_routes: Literal[True],
) -> tuple[ArrayT, Routes]: ...


def bra(
    q: Array,
    k: Array,
    v: Array,
    *,
    topk: int = 4,
    regions: int | Sequence[int] = 7,
    scale: float | None = None,
    routes: Array | None = None,
    kv_regions: int | Sequence[int] | None = None,
    backend: str | Backend | None = None,
    return_routes: bool = False,
) -> Any:
    """Bi-Level Routing Attention (BiFormer, section 3.2, equations 3 to 8, without the LCE term).

    Queries and keys are averaged over each region; every query region keeps the ``topk`` key
    regions with the highest product of means; its tokens attend to all tokens of those regions.
    No gradient flows through the routing. Views of a fused qkv projection need no copy.

    Parameters
    ----------
    q
        Queries, ``(N, *spatial, M, D)``; float16, bfloat16, float32 or float64.
    k, v
        Keys ``(N, *kv_spatial, M, D)`` and values ``(N, *kv_spatial, M, Dv)``, like ``q`` in
        library, device and dtype.
    topk
        Key regions per query region, 1 to the number of key regions.
    regions
        Regions per spatial axis of ``q``: one int, or one per axis.
    scale
        Factor on the scores before the softmax; None is ``D ** -0.5``. (The released BiFormer
        weights were trained with ``(M * D) ** -0.5``.)
    routes
        Key regions ``(N, R, k)``, integer, distinct in each row; given, routing is skipped and
        ``topk`` is not used, so any router can be plugged in.
    kv_regions
        Regions per spatial axis of ``k`` and ``v``; None is ``regions``.
    backend
        Name of a backend, or a :class:`~bilevel.protocol.Backend`; None is the best one for the
        arrays. See :func:`bilevel.backends`.
    return_routes
        Whether to return the :class:`~bilevel.protocol.Routes` too.

    Returns
    -------
    Array or (Array, Routes)
        ``(N, *spatial, M, Dv)``, in the library, device and dtype of ``q``.

    Raises
    ------
    ShapeError
        If shapes, regions, ``topk`` or ``routes`` do not fit each other.
    ArrayError
        If an argument is not a floating-point array, or if they differ in library, device, dtype.
    BackendUnavailable, BackendRefused
        If the backend asked for does not import, or does not take these arrays.
    """
    call = _prepare(q, k, v, topk, regions, scale, routes, kv_regions, backend)
    out = compose.bra(call.backend, q, k, v, call.routed)
    return (out, call.routes) if return_routes else out


def bra_vjp(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    *,
    topk: int = 4,
    regions: int | Sequence[int] = 7,
    scale: float | None = None,
    routes: ArrayT | None = None,
    kv_regions: int | Sequence[int] | None = None,
    backend: str | Backend | None = None,
) -> tuple[ArrayT, Pullback]:
    """:func:`bra`, and its pullback: the vector-Jacobian product, in the convention of jax.vjp.

    Arguments are those of :func:`bra`. NumPy's pullback is written by hand; torch's is its own.

    Returns
    -------
    tuple
        The output, and a function from the gradient of the output, of its shape and dtype, to
        the gradients of q, k and v. No gradient flows through the routing.

    Raises
    ------
    BackendRefused
        If the backend computes no gradients; else as :func:`bra`. The pullback raises ShapeError
        or ArrayError if the gradient it is given is not like the output.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 1, 8, 8, 2, 4))
    >>> out, pullback = bra_vjp(q, k, v, regions=4)
    >>> dq, dk, dv = pullback(np.ones_like(out))
    >>> dq.shape
    (1, 8, 8, 2, 4)
    """
    call = _prepare(q, k, v, topk, regions, scale, routes, kv_regions, backend)
    out, pullback = compose.bra_vjp(call.backend, q, k, v, call.routed)

    def checked(d_out: Array) -> tuple[Array, Array, Array]:
        check.same_kind("the gradient of the output", d_out, out)
        return pullback(d_out)

    return out, checked


class _Call(NamedTuple):
    """A call of bra, with its arguments checked and its routes found."""

    backend: Backend
    routes: Routes
    routed: Routed


def _prepare(
    q: Array,
    k: Array,
    v: Array,
    topk: int,
    regions: int | Sequence[int],
    scale: float | None,
    routes: Array | None,
    kv_regions: int | Sequence[int] | None,
    backend: str | Backend | None,
) -> _Call:
    problem = check.float_problem(q=q, k=k, v=v)
    q_grid, k_grid = check.bra_grids(q, k, v, regions, kv_regions)
    channels, axes = max(k.shape[-1], v.shape[-1]), max(q_grid.ndim, k_grid.ndim)
    chosen = resolve(problem._replace(head_dim=channels, axes=axes), backend)
    scale = check.scale_or_default(scale, q.shape[-1])
    if routes is None:
        topk = check.topk_of(topk, k_grid.num_regions)
        found = compose.bra_routes(chosen, q, k, q_grid, k_grid, topk)
    else:
        rows = (q.shape[0], q_grid.num_regions)
        check.region_index("routes", routes, q, rows, k_grid.num_regions, chosen)
        found = Routes(routes, None)
    return _Call(chosen, found, Routed(found.index, q_grid, k_grid, scale))


def partition(x: ArrayT, grid: Grid, *, backend: str | Backend | None = None) -> ArrayT:
    """Split a map of tokens into regions: ``(N, *spatial, M, D)`` to ``(N, R, T, M, D)``.

    Regions smaller than T are padded with zeros; :func:`key_mask` tells which tokens are real.
    Paper: section 3.2, "region partition".

    Raises ShapeError if ``x`` does not have the spatial axes of ``grid``.
    """
    chosen = resolve(check.float_problem(x=x), backend)
    check.fits_grid(x, grid)
    return chosen.partition(x, grid)


def merge(x: ArrayT, grid: Grid, *, backend: str | Backend | None = None) -> ArrayT:
    """The inverse of :func:`partition`: ``(N, R, T, M, D)`` to ``(N, *spatial, M, D)``.

    Padding is dropped. Raises ShapeError if R and T are not those of ``grid``.
    """
    chosen = resolve(check.float_problem(x=x), backend)
    if len(x.shape) != 5 or tuple(x.shape[1:3]) != (grid.num_regions, grid.region_tokens):
        raise ShapeError(
            f"expected x of shape (N, R={grid.num_regions}, T={grid.region_tokens}, M, D) for "
            f"{grid}, got {tuple(x.shape)}"
        )
    return chosen.merge(x, grid)


def summarize(x: ArrayT, grid: Grid, *, backend: str | Backend | None = None) -> ArrayT:
    """Mean of the tokens of each region: ``(N, *spatial, M, D)`` to ``(N, R, M * D)``.

    In float32, or float64 for float64. Paper: section 3.2, the region-level queries and keys of
    equation 4. Raises ShapeError if ``x`` does not have the spatial axes of ``grid``.
    """
    chosen = resolve(check.float_problem(x=x), backend)
    check.fits_grid(x, grid)
    return chosen.summarize(x, grid)


def route(
    q_mean: ArrayT, k_mean: ArrayT, topk: int, *, backend: str | Backend | None = None
) -> Routes:
    """The ``topk`` best key regions of every query region (equations 4 and 5).

    ``q_mean`` is ``(N, R, C)`` and ``k_mean`` ``(N, Rk, C)``; scores are their products over all
    heads together, unscaled, in float32 (float64 for float64). Best first; of equal scores the
    lower region index; NaN counts as the lowest score. No gradient flows.

    Raises ShapeError if the shapes differ in N or C, or if ``topk`` is not in 1 to Rk.
    """
    chosen = resolve(check.float_problem(q_mean=q_mean, k_mean=k_mean), backend)
    a, b = tuple(q_mean.shape), tuple(k_mean.shape)
    if len(a) != 3 or len(b) != 3 or (a[0], a[2]) != (b[0], b[2]):
        raise ShapeError(f"expected q_mean (N, R, C) and k_mean (N, Rk, C), got {a} and {b}")
    return chosen.route(q_mean, k_mean, check.topk_of(topk, b[1]))


def gather(x: ArrayT, index: ArrayT, *, backend: str | Backend | None = None) -> ArrayT:
    """The tokens of routed regions, side by side (equation 6).

    ``x`` is ``(N, Rk, T, M, D)``, ``index`` integer ``(N, R, k)``; gives ``(N, R, k * T, M, D)``.

    Raises ShapeError if the shapes differ in N or an index is not in 0 to Rk - 1.
    """
    chosen = resolve(check.float_problem(x=x), backend)
    if len(x.shape) != 5:
        raise ShapeError(f"expected x of shape (N, Rk, T, M, D), got {tuple(x.shape)}")
    check.region_index("index", index, x, (x.shape[0], None), x.shape[1], chosen)
    return chosen.gather(x, index)


def key_mask(index: ArrayT, grid: Grid, *, backend: str | Backend | None = None) -> ArrayT:
    """Which tokens that :func:`gather` returns are real: bool ``(N, R, k * T)``.

    ``index`` is integer ``(N, R, k)``, the regions of ``grid`` that were gathered. Where
    ``grid.uniform``, all are real and :func:`attend` needs no mask.

    Raises ShapeError if ``index`` does not have that shape or holds a region that is not there.
    """
    chosen = resolve(check.index_problem(index), backend)
    check.region_index("index", index, index, (None, None), grid.num_regions, chosen)
    return chosen.key_mask(index, grid)


def attend(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    *,
    mask: ArrayT | None = None,
    scale: float | None = None,
    backend: str | Backend | None = None,
) -> Attended:
    """Token attention in every region: ``softmax(q @ k.T * scale) @ v`` per head (equation 7).

    ``q`` is ``(N, R, T, M, D)``, ``k`` ``(N, R, L, M, D)``, ``v`` ``(N, R, L, M, Dv)``, ``mask``
    bool ``(N, R, L)``, True where a token takes part: at least one in each row. ``scale=None`` is
    ``D ** -0.5``. Scores, softmax and sums are float32 (float64 for float64). Returns
    :class:`~bilevel.protocol.Attended`.

    Raises ShapeError if the shapes do not fit each other, ArrayError if ``mask`` is not bool.
    """
    chosen = resolve(check.float_problem(q=q, k=k, v=v), backend)
    check.attend_shapes(q, k, v, mask)
    return chosen.attend(q, k, v, mask, check.scale_or_default(scale, q.shape[-1]))
