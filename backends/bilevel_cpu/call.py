"""A call as the kernel takes it: pointers, strides and sizes. It mirrors ``kernels/call.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from bilevel.grid import Grid
from bilevel_cpu.library import library
from bilevel_cpu.threads import useful

MAX_AXES = 3
"""Most spatial axes that the kernel addresses."""

_Axes = ctypes.c_int64 * MAX_AXES


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("axis", _Axes),
        ("head", ctypes.c_int64),
        ("channel", ctypes.c_int64),
    )


class _Grid(ctypes.Structure):
    _fields_ = (("tokens", _Axes), ("regions", _Axes))


MAPS = ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v", "lse")
SIZES = ("images", "heads", "topk", "head_dim", "value_dim")


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, _Map) for name in MAPS),
        ("index", ctypes.c_void_p),
        ("q_grid", _Grid),
        ("k_grid", _Grid),
        *((name, ctypes.c_int64) for name in SIZES),
        ("scale", ctypes.c_double),
    )


class Memory(NamedTuple):
    """An array as the kernel reads and writes it; it must be kept alive meanwhile."""

    pointer: int
    strides: Sequence[int]
    """In elements: of images, of each spatial axis, of heads, and of channels if it has any."""


class Sizes(NamedTuple):
    """What the arrays of a call have in common."""

    dtype: str
    images: int
    heads: int
    topk: int
    head_dim: int
    value_dim: int
    q_grid: Grid
    k_grid: Grid
    scale: float = 1.0

    @property
    def products(self) -> int:
        """Multiplications of attention."""
        queries = self.images * self.heads * prod(self.q_grid.spatial)
        keys = self.topk * self.k_grid.region_tokens
        return queries * keys * (self.head_dim + self.value_dim)

    @property
    def routing_products(self) -> int:
        """Multiplications of routing, and sums of its means."""
        regions = self.q_grid.num_regions * self.k_grid.num_regions
        tokens = prod(self.q_grid.spatial) + prod(self.k_grid.spatial)
        return self.images * self.heads * self.head_dim * (regions + tokens)


class Team(NamedTuple):
    """Who works on a call."""

    threads: int
    parallel: int | None
    """A function that runs another in so many threads, as GOMP_parallel; None: threads of the
    kernel's own."""


def forward(sizes: Sizes, team: Team, index: int, **maps: Memory) -> None:
    """Write ``out``, and ``lse`` if given, from q, k, v and the address of the routes, int64
    ``(N, R, k)``."""
    call = _call(sizes, index, maps)
    threads = useful(sizes.products, team.threads)
    _check(library(sizes.dtype).bilevel_forward(ctypes.byref(call), *_team(team, threads)), sizes)


def backward(sizes: Sizes, team: Team, index: int, **maps: Memory) -> None:
    """Write d_q, d_k and d_v from q, k, v, the routes, out, lse and d_out."""
    call = _call(sizes, index, maps)
    threads = useful(3 * sizes.products, team.threads)
    _check(library(sizes.dtype).bilevel_backward(ctypes.byref(call), *_team(team, threads)), sizes)


def find_routes(sizes: Sizes, team: Team, index: int, score: int, **maps: Memory) -> None:
    """Write the routes to the address ``index``, int64 ``(N, R, k)``, and their scores to
    ``score``, float32 or float64, from q and k."""
    call = _call(sizes, None, {**maps, "v": maps["k"]})
    threads = useful(sizes.routing_products, team.threads)
    to = (ctypes.c_void_p(index), ctypes.c_void_p(score))
    entry = library(sizes.dtype).bilevel_routes
    _check(entry(ctypes.byref(call), *to, *_team(team, threads)), sizes)


def _team(team: Team, threads: int) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    return ctypes.c_void_p(team.parallel), ctypes.c_int64(threads)


def _call(sizes: Sizes, index: int | None, maps: dict[str, Memory]) -> _Call:
    return _Call(
        **{name: _map(memory, channels=name != "lse") for name, memory in maps.items()},
        index=index,
        q_grid=_grid(sizes.q_grid),
        k_grid=_grid(sizes.k_grid),
        **{name: getattr(sizes, name) for name in SIZES},
        scale=sizes.scale,
    )


def _map(memory: Memory, channels: bool) -> _Map:
    image, *axes = memory.strides
    channel = axes.pop() if channels else 1
    head = axes.pop()
    return _Map(memory.pointer, image, _axes(axes, 0), head, channel)


def _grid(grid: Grid) -> _Grid:
    return _Grid(_axes(grid.spatial, 1), _axes(grid.regions, 1))


def _axes(values: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int64]:
    return _Axes(*(missing,) * (MAX_AXES - len(values)), *values)


def _check(outcome: int, sizes: Sizes) -> None:
    """Raise what an outcome of ``kernels/attention.cpp`` means."""
    if outcome == 1:
        raise IndexError(
            f"expected routes to hold regions from 0 to {sizes.k_grid.num_regions - 1}; check them"
        )
    if outcome:
        raise MemoryError("no memory for the attention of this call; use fewer images at once")
