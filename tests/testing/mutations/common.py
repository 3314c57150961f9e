"""What all mutations need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from bilevel import Backend
from bilevel.testing import arrays

Array: TypeAlias = Any
Mutation: TypeAlias = Callable[[Backend], Backend]


def converted(b: Backend, x: np.ndarray, dtype: str | None = None) -> Array:
    """A NumPy array in the library of the backend, writable."""
    return arrays.contiguous_copy(arrays.from_numpy(x, arrays.home_of(b), dtype))


def dtype_name(x: Array) -> str:
    return str(x.dtype).rpartition(".")[-1]
