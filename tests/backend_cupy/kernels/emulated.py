"""The CuPy backend with its kernels on a CPU, for NumPy arrays and, by exchange, torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import torch

from bilevel.exchange import adapted
from bilevel.protocol import Backend, Exchange, Problem
from bilevel_cupy.backend import DTYPES, bind
from bilevel_torch.backend import BACKEND as TORCH
from tests.backend_cupy.emulator.emulator import Emulator


def _taking(library: str, *dtypes: str) -> Callable[[Problem], str | None]:
    def refuses(problem: Problem) -> str | None:
        on_cpu = (problem.library, problem.device) == (library, "cpu")
        takes = on_cpu and problem.dtype in (*dtypes, "")
        return None if takes else f"takes only {', '.join(dtypes)} {library} arrays on CPU"

    return refuses


def numpy_backend(xp: Any) -> Backend:
    """Its arrays are NumPy's; ``xp`` is an emulator."""
    refuses = _taking("numpy", "float16", "float32", "float64")
    return replace(bind(xp, kernels=True), library="numpy", refuses=refuses)


def take(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """As CuPy takes tensors: NumPy itself knows no bfloat16."""
    if x.dtype != torch.bfloat16:
        return x.numpy()
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def give(x: np.ndarray[Any, Any]) -> torch.Tensor:
    if x.dtype != ml_dtypes.bfloat16:
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)


def torch_backend(xp: Any) -> Backend:
    """What torch tensors have of it, gradients included."""
    foreign = replace(numpy_backend(xp), exchange=Exchange(take, give))
    crossed = adapted(foreign, TORCH)
    return replace(crossed, library="torch", refuses=_taking("torch", *DTYPES))


OF_NUMPY = numpy_backend(Emulator())
OF_TORCH = torch_backend(Emulator())
