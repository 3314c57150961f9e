"""The compiled kernel, one library for each dtype, loaded once.

It is compiled at its first use, by the C++ compiler that is there, and kept in the user's cache:
so one wheel serves all systems and Pythons, and the kernel has the vectors of the CPU it runs on.
Wheels with compiled code would need one for each system, and the least of its CPUs or several
kernels. Where there is no compiler, the backend refuses, and the library's other backends go on.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel_cpu import compiler
from bilevel_cpu.compiler import CompilerError

STORED = {"float32": "float", "float64": "double", "float16": "Half", "bfloat16": "Brain"}
"""What the kernel calls the dtypes."""


def why_not(dtype: str) -> str | None:
    """What stands against using the kernel for a dtype, in one line; compiles it if need be."""
    found = _found(dtype)
    return found if isinstance(found, str) else None


def library(dtype: str) -> ctypes.CDLL:
    """The kernel for arrays of a dtype, for which :func:`why_not` has nothing to say."""
    found = _found(dtype)
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


@cache
def _found(dtype: str) -> ctypes.CDLL | str:
    try:
        return _loaded(STORED[dtype])
    except CompilerError as error:
        return f"its kernel is not compiled here: {error}"


def _loaded(stored: str) -> ctypes.CDLL:
    """The library from the first folder that it can be kept in and loaded from."""
    name = f"bilevel-{stored}-{compiler.key(stored)}.so"
    problem = ""
    for folder in _folders():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _ours(folder):
                continue
            with _locked(path):
                return _from_file(stored, path)
        except (OSError, InputError) as error:  # no room, or read-only, or nothing runs from there
            problem = str(error)
    raise CompilerError(f"no folder can keep the compiled kernel ({problem})")


def _from_file(stored: str, path: Path) -> ctypes.CDLL:
    """The library in a file; compiled if the file is not there, or is no library any more."""
    if path.exists():
        with suppress(OSError):
            return ctypes.CDLL(str(path))
    with replacing(path) as partial:
        compiler.build(stored, partial)
    return ctypes.CDLL(str(path))


def _folders() -> Iterator[Path]:
    """Where compiled kernels are kept, first of all the user's cache."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        yield Path(base) / "bilevel"
    with suppress(RuntimeError):  # there is no home
        home = Path.home()
        yield home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "bilevel"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    yield Path(tempfile.gettempdir()) / f"bilevel-{user}"


def _ours(folder: Path) -> bool:
    """Whether nobody else may put a library there, to be run as ours."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Within it, no other process compiles the same; a process that ends lets go. Where the system
    has no such locks, or the folder is read-only, several may compile, each to its own file."""
    try:
        import fcntl

        file = path.with_suffix(".lock").open("a")
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
