"""Whether the arrays of a call fit each other and its grids, asked once in front of every backend.
Each error says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bilevel.arguments import count, number
from bilevel.errors import ArrayError, ShapeError
from bilevel.grid import Grid
from bilevel.protocol import Array, Backend, Problem
from bilevel.registry import describe

FLOATS = ("float16", "bfloat16", "float32", "float64")


def float_problem(**arrays: Array) -> Problem:
    """The problem that floating-point arrays of one library, device and dtype pose."""
    described = {name: describe(x) for name, x in arrays.items()}
    first, problem = next(iter(described.items()))
    if problem.dtype not in FLOATS:
        raise ArrayError(
            f"expected {first} to be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, "
            f"got {problem.dtype}; {_conversion(first, problem.dtype)}"
        )
    devices = {name: getattr(x, "device", None) for name, x in arrays.items()}
    for name, other in described.items():
        for aspect, mine, its in (
            ("library", problem.library, other.library),
            ("device", devices[first], devices[name]),
            ("dtype", problem.dtype, other.dtype),
        ):
            if mine != its and None not in (mine, its):  # a tracer has no device: it fits any
                raise ArrayError(
                    f"expected {name} to have the {aspect} of {first}, {mine}, got {its}; "
                    f"{_conversion(name, other.dtype, 'convert one of them')}"
                )
    return problem


def _conversion(name: str, dtype: str, otherwise: str = "convert it") -> str:
    """What to do with an array of a dtype that is not taken."""
    if dtype.startswith(("<", ">")):  # how NumPy writes the byte order of another machine
        return f"convert it to native byte order: {name}.astype({name}.dtype.newbyteorder('='))"
    return otherwise


def index_problem(index: Array) -> Problem:
    """The problem that an array of region indices poses alone: none of floating-point numbers."""
    return describe(index)._replace(dtype="")


def fits_grid(x: Array, grid: Grid, name: str = "x") -> None:
    """``x`` is ``(N, *grid.spatial, M, D)``."""
    shape = tuple(x.shape)
    if len(shape) != grid.ndim + 3 or shape[1:-2] != grid.spatial:
        axes = ", ".join(map(str, grid.spatial))
        raise ShapeError(f"expected {name} of shape (N, {axes}, M, D) for {grid}, got {shape}")


def topk_of(topk: object, num_regions: int) -> int:
    """``topk`` as an integer from 1 to the number of key regions."""
    return count("topk", topk, 1, num_regions, "the number of key regions", error=ShapeError)


def region_index(
    name: str,
    index: Array,
    like: Array,
    shape: tuple[int | None, int | None],
    num_regions: int,
    backend: Backend,
) -> None:
    """``index`` holds regions in 0 to ``num_regions - 1``, in an array like ``like``, of shape
    ``(N, R, k)``, where ``shape`` gives N and R (None: any)."""
    got, of = describe(index), describe(like)
    there = getattr(like, "device", of.device)
    where = getattr(index, "device", there)
    if "int" not in got.dtype or got.library != of.library or str(where) != str(there):
        raise ArrayError(
            f"expected {name} to be an integer {of.library} array on {there}, "
            f"got {got.dtype} {got.library} on {where}; {_conversion(name, got.dtype)}"
        )
    sizes = tuple(index.shape)
    axes = [letter if n is None else f"{letter}={n}" for letter, n in zip("NR", shape, strict=True)]
    if len(sizes) != 3 or any(n not in (None, m) for n, m in zip(shape, sizes, strict=False)):
        raise ShapeError(f"expected {name} of shape ({', '.join(axes)}, k), got {sizes}")
    if not 1 <= sizes[2] <= num_regions:
        raise ShapeError(
            f"expected 1 to {num_regions} key regions in each row of {name}, got {sizes[2]}"
        )
    extent = backend.extent(index) if prod(sizes) else None
    if extent is not None and not 0 <= extent[0] <= extent[1] < num_regions:
        raise ShapeError(
            f"expected {name} to hold regions from 0 to {num_regions - 1}, "
            f"got values from {extent[0]} to {extent[1]}"
        )


def same_kind(name: str, x: Array, like: Array) -> None:
    """``x`` has the library, device, dtype and shape of ``like``."""
    float_problem(**{"the output": like, name: x})
    if tuple(x.shape) != tuple(like.shape):
        raise ShapeError(f"expected {name} of shape {tuple(like.shape)}, got {tuple(x.shape)}")


def bra_grids(
    q: Array,
    k: Array,
    v: Array,
    regions: int | Sequence[int],
    kv_regions: int | Sequence[int] | None,
) -> tuple[Grid, Grid]:
    """The grids of queries and keys, once the shapes of q, k and v fit each other."""
    a, b, c = tuple(q.shape), tuple(k.shape), tuple(v.shape)
    ranks_fit = min(len(a), len(b)) >= 4 and len(b) == len(c)
    if not ranks_fit or (a[0], *a[-2:]) != (b[0], *b[-2:]) or b[:-1] != c[:-1]:
        raise ShapeError(
            "expected q (N, *spatial, M, D), k (N, *kv_spatial, M, D) and "
            f"v (N, *kv_spatial, M, Dv), got {a}, {b} and {c}"
        )
    if 0 in (*a[1:], *c[1:]):
        raise ShapeError(f"expected no empty axis but N, got q {a}, k {b} and v {c}")
    kv_regions = regions if kv_regions is None else kv_regions
    _regions_for_axes("q", a, regions)
    _regions_for_axes("k", b, kv_regions)
    return Grid(a[1:-2], regions), Grid(b[1:-2], kv_regions)


def _regions_for_axes(name: str, shape: tuple[int, ...], regions: object) -> None:
    """``regions`` have no more entries than a map has spatial axes."""
    given = len(regions) if isinstance(regions, (tuple, list)) else 1
    axes = len(shape) - 3
    if given > axes:
        raise ShapeError(
            f"expected regions for each of the {axes} spatial axes of {name}, for of {shape} the "
            f"first is N and the last two are M and D, got {regions!r}; give {name} of shape "
            "(N, *spatial, M, D)"
        )


def attend_shapes(q: Array, k: Array, v: Array, mask: Array | None) -> None:
    """The arguments of :func:`bilevel.ops.attend` fit each other."""
    a, b, c = tuple(q.shape), tuple(k.shape), tuple(v.shape)
    fits = len(a) == len(b) == len(c) == 5 and a[:2] == b[:2] and a[3:] == b[3:] and b[:4] == c[:4]
    if not fits or 0 in (*b[1:], c[4]):
        raise ShapeError(
            "expected q (N, R, T, M, D), k (N, R, L, M, D) and v (N, R, L, M, Dv), "
            f"no axis but N empty, got {a}, {b} and {c}"
        )
    if mask is None:
        return
    got, of = describe(mask), describe(q)
    if (got.library, got.device, got.dtype) != (of.library, of.device, "bool"):
        raise ArrayError(
            f"expected mask to be a bool {of.library} array on {of.device}, True where a token "
            f"takes part, got {got.dtype} {got.library} on {got.device}"
        )
    if tuple(mask.shape) != b[:3]:
        raise ShapeError(f"expected mask of shape (N, R, L) = {b[:3]}, got {tuple(mask.shape)}")


def scale_or_default(scale: object, head_dim: int) -> float:
    """``scale``, a finite number, or ``head_dim ** -0.5`` for None."""
    return float(head_dim**-0.5) if scale is None else number("scale", scale)
