"""Arrays between NumPy, in which the references are written, and the library of a backend."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bilevel.checks import FLOATS
from bilevel.protocol import Array, Backend, Problem

NumpyArray: TypeAlias = npt.NDArray[Any]


class Home(NamedTuple):
    """Where the arrays of a backend live."""

    library: str
    device: str


HOMES = (Home("numpy", "cpu"), Home("torch", "cpu"), Home("torch", "cuda"))


def home_of(backend: Backend) -> Home:
    """The first of ``HOMES`` whose float32 arrays the backend takes."""
    for home in HOMES:
        if backend.refuses(Problem(*home, "float32")) is None:
            return home
    raise ValueError(f"expected backend {backend.name!r} to take float32 arrays of one of {HOMES}")


def dtypes_of(backend: Backend) -> tuple[str, ...]:
    """The floating-point dtypes the backend takes, float32 first: the simplest to debug."""
    home = home_of(backend)
    order = sorted(FLOATS, key=lambda dtype: dtype != "float32")
    return tuple(d for d in order if backend.refuses(Problem(*home, d)) is None)


def from_numpy(x: NumpyArray, home: Home, dtype: str | None = None) -> Array:
    """A copy of ``x`` in the library and on the device of a backend; None keeps the dtype.

    NumPy arrays come back read-only: a backend that writes to its inputs fails at once.
    """
    if home.library == "torch":
        import torch

        to = None if dtype is None else getattr(torch, dtype)
        return torch.tensor(np.array(x, order="C")).to(home.device, to)
    copy = np.array(x, dtype)
    copy.flags.writeable = False
    return copy


def to_numpy(x: Array) -> NumpyArray:
    """``x`` as a NumPy array. Floats become float64, which holds each of them exactly."""
    if not isinstance(x, np.ndarray):
        x = x.detach().cpu()
        x = (x.double() if x.is_floating_point() else x).numpy()
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def contiguous_copy(x: Array) -> Array:
    """A writable copy in row-major order, in the library of ``x``."""
    if isinstance(x, np.ndarray):
        return x.copy(order="C")
    return x.clone().contiguous()
