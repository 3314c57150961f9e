"""BRA with its projections, as functions written once for every array library.

Each takes ``p``, which has the callables ``qkv``, ``lce`` (None: no local context enhancement) and
``proj`` on ``(N, *spatial, C)`` arrays, and the values ``num_heads``, ``topk``, ``regions`` (one
int per spatial axis), ``scale`` and ``backend``: the torch module of :mod:`bilevel.nn`, or the
layers that :mod:`bilevel.models.layers` builds from a dict of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeAlias

from bilevel.grid import fit_regions
from bilevel.ops import bra
from bilevel.protocol import Array

Padding: TypeAlias = Literal["masked", "official"]


def routed_attention(p: Any, x: Array) -> Array:
    """Bi-Level Routing Attention with local context enhancement (section 3.2, equation 8).

    ``x`` is ``(N, *spatial, C)``, and so is the result. Where an axis has fewer tokens than
    regions, its tokens are the regions; topk is at most the number of regions.
    """
    regions = fit_regions(x.shape[1:-1], p.regions)
    q, k, v = split_heads(p.qkv(x), p.num_heads)
    out = bra(
        q, k, v, topk=min(p.topk, prod(regions)), regions=regions, scale=p.scale, backend=p.backend
    )
    out = reshaped(out, x.shape)
    return p.proj(out if p.lce is None else out + p.lce(reshaped(v, x.shape)))


def routed_attention_legacy_padded(p: Any, x: Array) -> Array:
    """The official legacy code: zeros are added to the input, up to a multiple of the regions.

    ``x`` is ``(N, H, W, C)``; ``p.pad(x, (height, width))`` adds the zeros.
    """
    h, w = x.shape[1:3]
    padded = p.pad(x, tuple(-(-n // s) * s for n, s in zip((h, w), p.regions, strict=True)))
    return routed_attention(p, padded)[:, :h, :w, :]


def split_heads(qkv: Array, num_heads: int) -> tuple[Array, Array, Array]:
    """``(N, *spatial, 3 * C)`` to queries, keys and values ``(N, *spatial, M, D)``, as views."""
    *tokens, channels = qkv.shape
    dim = channels // 3
    # Of torch's chunks the gradients are put side by side; those of slices would be added up, each
    # with zeros for the others.
    chunks = (
        qkv.chunk(3, -1)
        if hasattr(qkv, "chunk")
        else (qkv[..., start : start + dim] for start in (0, dim, 2 * dim))
    )
    q, k, v = (reshaped(x, (*tokens, num_heads, dim // num_heads)) for x in chunks)
    return q, k, v


def reshaped(x: Array, shape: Sequence[int]) -> Array:
    """``x.reshape(shape)``, of which the array API standard has the function alone."""
    if hasattr(x, "reshape"):
        return x.reshape(shape)
    return x.__array_namespace__().reshape(x, shape)
