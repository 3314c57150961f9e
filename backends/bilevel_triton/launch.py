"""The kernels of a call, launched one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel_triton import memory
from bilevel_triton.block_lists import kv_block_lists, q_block_lists
from bilevel_triton.call import Call, map_of, options, rounded
from bilevel_triton.kernels.backward import add_partials, gradient_of_keys, gradient_of_queries
from bilevel_triton.kernels.forward import attend
from bilevel_triton.tiles import Tiles, attention_tiles


def forward(call: Call, out: Tensor, lse: Tensor) -> None:
    """Compute ``out`` ``(N, *spatial, M, Dv)`` and ``lse``, float32 ``(N, M, tokens)``."""
    tiles = _query_tiles(call)
    num_tiles = tiles.count(call.queries)
    attend[(call.images * num_tiles * call.heads,)](
        *call.maps,
        map_of(out),
        lse,
        kv_block_lists(call, tiles),
        num_tiles,
        call.shape,
        call.meta(tiles),
        **options(tiles),
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
    tiles = _query_tiles(call)
    num_tiles = tiles.count(call.queries)
    gradient_of_queries[(call.images * num_tiles * call.heads,)](
        *call.maps,
        map_of(out),
        map_of(d_out),
        lse,
        delta,
        map_of(d_q),
        kv_block_lists(call, tiles),
        num_tiles,
        call.shape,
        call.meta(tiles),
        **options(tiles),
    )


class Partials(NamedTuple):
    """Partial gradients, one for each chunk of a block list that has several.

    Float32 ``(N, per_image, tiles of a group, M, rows, channels)``.
    """

    d_k: Tensor
    d_v: Tensor
    per_image: int


def _gradient_of_keys(
    call: Call, d_out: Tensor, lse: Tensor, delta: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    tiles = _key_tiles(call)
    num_tiles = tiles.count(call.keys)
    tiles_per_group = 1 if tiles.group_size > 1 else num_tiles // call.keys.num_regions
    block_lists, per_image = q_block_lists(call, tiles)
    work = (call.images, per_image, tiles_per_group, call.heads, tiles.stationary_rows)
    partial_d_k, partial_d_v = (
        memory.empty(lse, (*work, rounded(x.shape[-1])), torch.float32) for x in (call.k, call.v)
    )
    partials = Partials(partial_d_k, partial_d_v, per_image)
    gradient_of_keys[(call.images * block_lists.num_chunks * tiles_per_group * call.heads,)](
        *call.maps,
        map_of(d_out),
        lse,
        delta,
        map_of(d_k),
        map_of(d_v),
        block_lists,
        partials,
        call.shape,
        call.meta(tiles),
        **options(tiles),
    )
    if per_image:
        add_partials[(call.images * num_tiles,)](
            map_of(d_k),
            map_of(d_v),
            block_lists,
            partials,
            num_tiles,
            call.shape,
            call.meta(tiles),
            **options(tiles),
        )


def _query_tiles(call: Call) -> Tiles:
    """Stationary queries, streamed keys and values."""
    itemsize = call.q.element_size()
    return attention_tiles(call.queries, call.keys, call.topk, call.channels, itemsize)


def _key_tiles(call: Call) -> Tiles:
    """Stationary keys and values, streamed queries."""
    routes = call.queries.num_regions * call.topk / call.keys.num_regions
    itemsize = call.q.element_size()
    return attention_tiles(call.keys, call.queries, routes, call.channels, itemsize, results=2)
