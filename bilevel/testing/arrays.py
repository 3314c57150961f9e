"""Arrays between NumPy, in which the references are written, and the library of a backend.

A library needs only what all of them have: functions ``asarray`` and ``reshape``, dtypes as
attributes of its module or by NumPy's names, and arrays with ``tolist`` or DLPack. So, but for
NumPy, no library is named here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bilevel.array_checks import FLOATS
from bilevel.protocol import Array, Backend, Problem
from bilevel.registry import describe

NumpyArray: TypeAlias = npt.NDArray[Any]


class Home(NamedTuple):
    """Where the arrays of a backend live."""

    library: str
    device: str


DEVICES = ("cpu", "cuda", "gpu", "tpu")
"""The kinds of devices to try, in this order."""


def home_of(backend: Backend) -> Home:
    """The first kind of device whose float32 arrays the backend takes."""
    for device in DEVICES:
        if backend.refuses(Problem(backend.library, device, "float32")) is None:
            return Home(backend.library, device)
    raise ValueError(
        f"expected backend {backend.name!r} to take float32 {backend.library} arrays on one of "
        f"{', '.join(DEVICES)}, but it refuses all of them"
    )


def dtypes_of(backend: Backend) -> tuple[str, ...]:
    """The floating-point dtypes the backend takes, float32 first: the simplest to debug."""
    home = home_of(backend)
    order = sorted(FLOATS, key=lambda dtype: dtype != "float32")
    return tuple(d for d in order if backend.refuses(Problem(*home, d)) is None)


def from_numpy(x: NumpyArray, home: Home, dtype: str | None = None) -> Array:
    """A copy of ``x`` in the library and on the device of a backend; None keeps the dtype.

    NumPy arrays come back read-only: a backend that writes to its inputs fails at once.
    """
    made = _made(x, home, dtype)
    if isinstance(made, np.ndarray):
        made.flags.writeable = False
    return made


def to_numpy(x: Array) -> NumpyArray:
    """``x`` as a NumPy array. Floats become float64, which holds each of their values exactly."""
    dtype = str(x.dtype).rpartition(".")[-1]
    dtype = "float64" if "float" in dtype else dtype
    if not isinstance(x, np.ndarray):
        # Lists of numbers: the only way that serves bfloat16 and every device.
        numbers = x.tolist() if hasattr(x, "tolist") else np.from_dlpack(x)
        return np.array(numbers, dtype).reshape(x.shape)
    return x.astype(dtype) if dtype == "float64" else x


def contiguous_copy(x: Array) -> Array:
    """A copy in row-major order, in the library of ``x``; writable where the library has that."""
    described = describe(x)
    home = Home(described.library, described.device)
    return _made(to_numpy(x), home, described.dtype)


def _made(x: NumpyArray, home: Home, dtype: Any) -> Array:
    """A copy of ``x`` on the device of ``home``."""
    xp = namespace(home.library)
    copy = np.array(x, order="C")
    keeps = dtype in (None, copy.dtype.name)
    made = xp.asarray(copy) if keeps else xp.asarray(copy, dtype=getattr(xp, dtype, dtype))
    if home.device != "cpu" and describe(made).device == "cpu":
        made = xp.asarray(made, device=home.device)
    return made


def namespace(library: str) -> Any:
    """The module of a library that has ``asarray``: itself, or its part called ``numpy``."""
    module = import_module(library)
    return module if hasattr(module, "asarray") else import_module(f"{library}.numpy")
