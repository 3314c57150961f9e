"""Arrays between NumPy and other libraries, for what computes on the host: pictures, self-tests."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.protocol import Array


def to_numpy(x: Array) -> NDArray[Any]:
    """An array of any library as NumPy has it; half precision of torch as float32."""
    if hasattr(x, "detach"):  # torch
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    return x.get() if hasattr(x, "get") else np.asarray(x)  # get: CuPy


def from_numpy(x: NDArray[Any], library: str, device: str = "cpu") -> Array:
    """A copy of an array in a library, by its top-level module, on a kind of device."""
    module = import_module(library)
    if not hasattr(module, "asarray"):  # JAX has it in a part
        module = import_module(f"{library}.numpy")
    copy = module.asarray(x.copy())
    return copy.to(device) if library == "torch" else copy
