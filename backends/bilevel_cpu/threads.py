"""How many threads work, and whose they are."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

LEAST = 2**20
"""Products for which a thread is worth its start."""


def useful(products: int, available: int) -> int:
    """How many of the threads a call of so many products uses."""
    return max(1, min(available, products // LEAST))


def allowed() -> int:
    """The threads that a library without its own setting may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdigit() and int(given):
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime_of_torch() -> int | None:
    """The function of the OpenMP runtime that torch has loaded which runs another in parallel: then
    torch's threads do our work too, which after its own wait busily for more. None where it is not
    found, or does not survive: in a process forked from one that used it."""
    return _runtime_of_torch(os.getpid())


_LOADING_PROCESS = os.getpid()


@cache
def _runtime_of_torch(process: int) -> int | None:
    if process != _LOADING_PROCESS or not sys.platform.startswith("linux"):
        return None
    paths = _loaded_runtimes()
    ours = [path for path in paths if "torch" in path]
    paths = ours or paths
    if len(paths) != 1:
        return None
    runtime = ctypes.CDLL(paths[0], mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    try:
        return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
    except AttributeError:
        return None


def _loaded_runtimes() -> list[str]:
    """The files of all OpenMP runtimes in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    names = ("libgomp", "libiomp5", "libomp")
    return sorted(file for file in files if Path(file).name.startswith(names))
