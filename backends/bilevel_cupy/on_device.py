"""The backend on a GPU. This module alone imports CuPy, when it is asked for the backend."""

from __future__ import annotations

from functools import cache
from typing import Any

from bilevel.errors import BackendUnavailable
from bilevel.protocol import Backend
from bilevel_cupy.backend import bind
from bilevel_cupy.exchange import exchange

OLDEST = 80
"""Compute capability, times ten, of the oldest GPUs with the instructions of
``kernels/hardware.cuh``."""


def cupy_with_a_device() -> Any:
    """The module cupy.

    Raises
    ------
    BackendUnavailable
        With the reason in one line, if it is installed but does not load, or finds no GPU. If it
        is not installed, the error is Python's own.
    """
    try:
        import cupy
    except ModuleNotFoundError:
        raise
    except Exception as error:  # it loads libraries of CUDA, which may fail in any way
        raise BackendUnavailable(
            f"backend 'cupy' does not import: CuPy is installed, but does not load "
            f"({_in_one_line(error.__cause__ or error)}); install the one for the CUDA that is "
            "here, cupy-cuda13x or cupy-cuda12x"
        ) from error
    try:
        devices, reason = cupy.cuda.runtime.getDeviceCount(), "CUDA counts none"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        devices, reason = 0, _in_one_line(error)
    if not devices:
        raise BackendUnavailable(
            f"backend 'cupy' needs an NVIDIA GPU and its driver, and finds none here ({reason}); "
            "use another backend, bilevel.backends() lists them"
        )
    return cupy


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@cache
def backend() -> Backend:
    """The backend for CuPy's arrays; without kernels if there is a GPU too old for them."""
    cupy = cupy_with_a_device()
    from array_api_compat import cupy as xp  # which imports CuPy, too

    devices = map(cupy.cuda.Device, range(cupy.cuda.runtime.getDeviceCount()))
    new = all(int(device.compute_capability) >= OLDEST for device in devices)
    return bind(xp, exchange(cupy), kernels=new)


def __getattr__(name: str) -> Backend:
    """``BACKEND``, which is made when it is asked for: this module imports anywhere."""
    if name == "BACKEND":
        return backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
