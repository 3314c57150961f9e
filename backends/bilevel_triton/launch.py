"""The kernels of a call, launched one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel_triton import memory, walks
from bilevel_triton.call import Call, block_of, map_of, options
from bilevel_triton.kernels.attend import attend
from bilevel_triton.kernels.gradients import add_partials, gradient_of_keys, gradient_of_queries
from bilevel_triton.tiles import Tiles, tiles


def forward(call: Call, out: Tensor, lse: Tensor) -> None:
    """Compute ``out`` ``(N, *spatial, M, Dv)`` and ``lse``, float32 ``(N, M, tokens)``."""
    of_queries = _tiles_of_queries(call)
    count = of_queries.count(call.queries)
    attend[(call.images * count * call.heads,)](
        *call.maps,
        map_of(out),
        lse,
        walks.from_queries(call, of_queries),
        count,
        call.shape,
        call.how(of_queries),
        **options(of_queries),
    )


def backward(
    call: Call, d_out: Tensor, out: Tensor, lse: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    """Compute ``d_q``, ``d_k`` and ``d_v``, like q, k and v."""
    delta = memory.empty(lse, lse.shape, torch.float32)
    _gradient_of_queries(call, d_out, out, lse, delta, d_q)
    _gradient_of_keys(call, d_out, lse, delta, d_k, d_v)


def _gradient_of_queries(
    call: Call, d_out: Tensor, out: Tensor, lse: Tensor, delta: Tensor, d_q: Tensor
) -> None:
    of_queries = _tiles_of_queries(call)
    count = of_queries.count(call.queries)
    gradient_of_queries[(call.images * count * call.heads,)](
        *call.maps,
        map_of(out),
        map_of(d_out),
        lse,
        delta,
        map_of(d_q),
        walks.from_queries(call, of_queries),
        count,
        call.shape,
        call.how(of_queries),
        **options(of_queries),
    )


class Partials(NamedTuple):
    """Partial results of chunks, float32 ``(N, most, parts, M, lanes, channels)``."""

    k: Tensor
    v: Tensor
    most: int


def _gradient_of_keys(
    call: Call, d_out: Tensor, lse: Tensor, delta: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    routes = call.queries.regions * call.topk / call.keys.regions
    itemsize = call.q.element_size()
    of_keys = tiles(call.keys, call.queries, routes, call.channels, itemsize, results=2)
    of_image, num_partials = walks.from_keys(call, of_keys)
    count = of_keys.count(call.keys)
    parts = 1 if of_keys.group > 1 else count // call.keys.regions
    work = (call.images, num_partials, parts, call.heads, of_keys.kept_lanes)
    partial_k, partial_v = (
        memory.empty(lse, (*work, block_of(x.shape[-1])), torch.float32) for x in (call.k, call.v)
    )
    partials = Partials(partial_k, partial_v, num_partials)
    gradient_of_keys[(call.images * of_image.num_tasks * parts * call.heads,)](
        *call.maps,
        map_of(d_out),
        lse,
        delta,
        map_of(d_k),
        map_of(d_v),
        of_image,
        partials,
        call.shape,
        call.how(of_keys),
        **options(of_keys),
    )
    if num_partials:
        add_partials[(call.images * count,)](
            map_of(d_k),
            map_of(d_v),
            of_image,
            partials,
            count,
            call.shape,
            call.how(of_keys),
            **options(of_keys),
        )


def _tiles_of_queries(call: Call) -> Tiles:
    return tiles(call.queries, call.keys, call.topk, call.channels, call.q.element_size())
