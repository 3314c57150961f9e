"""The backend on a GPU. This module alone imports CuPy, when it is asked for the backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from bilevel.errors import BackendUnavailable
from bilevel.protocol import Array, Backend, Pullback
from bilevel_cupy.backend import bind, composed
from bilevel_cupy.exchange import exchange

OLDEST = 80
"""The compute capability, times ten, of the oldest GPUs that have what ``kernels/hardware.cuh``
asks of them."""


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
    if any(int(device.compute_capability) < OLDEST for device in devices):
        return composed(xp, exchange(cupy))
    fused = bind(xp, exchange(cupy))
    assert fused.bra is not None
    assert fused.bra_vjp is not None
    return replace(fused, bra=where_it_is(fused.bra), bra_vjp=vjp_where_it_is(fused.bra_vjp))


def where_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` on the device of its first array: a kernel of another would read nowhere."""

    def call(x: Array, *others: Any) -> Any:
        with x.device:
            return function(x, *others)

    return call


def vjp_where_it_is(vjp: Callable[..., tuple[Array, Pullback]]) -> Callable[..., Any]:
    """The same of a function that gives a pullback, too."""

    def call(x: Array, *others: Any) -> tuple[Array, Pullback]:
        with x.device:
            out, pullback = vjp(x, *others)
        return out, where_it_is(pullback)

    return call


def __getattr__(name: str) -> Backend:
    """``BACKEND``, which is made when it is asked for: this module imports anywhere."""
    if name == "BACKEND":
        return backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
