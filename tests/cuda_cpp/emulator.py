"""CUDA C++ on a CPU: what stands in for the module cupy where there is no GPU.

    xp = Emulator()
    module = xp.RawModule(code=text, name_expressions=["attend<__half, 64>"])
    module.get_function("attend<__half, 64>")(grid, block, arguments, shared_mem=1024)

g++ compiles the text that NVRTC would, after ``gpu_on_cpu.h``. Arrays are NumPy's. What a GPU
refuses to launch is refused, and what it leaves undefined is an error, as far as it is noticed.

``BILEVEL_SANITIZE=1`` compiles with AddressSanitizer, for a Python that ``sanitized.py`` starts.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cuda import pathfinder

HERE = Path(__file__).parent
HEADERS = ("fibers.h", "blocks.h", "gpu_on_cpu.h")

MOST_THREADS = 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_SHARED_MEMORY = 232_448
"""Bytes a block may have on sm_90, where it asks for more than the 48 KB that all may have."""

OPTIONS = ("-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique")
OPTIMIZED = ("-O2", "-fno-strict-aliasing")
SANITIZED = ("-O1", "-g", "-fno-strict-aliasing", "-fsanitize=address")

ENTRIES = """
#define ENTRY extern "C" __attribute__((visibility("default"))) const char*
ENTRY parameters() {{ return gpu::Kernel<(&{name})>::parameters(); }}
ENTRY launch(const gpu::Launch* how, void** arguments) {{
    return gpu::Kernel<(&{name})>::launch(*how, arguments);
}}
"""


class KernelError(RuntimeError):
    """A kernel that does not compile, a launch that a GPU would refuse, a mistake in a kernel."""


def sanitizes() -> bool:
    """Whether kernels are compiled with AddressSanitizer."""
    return os.environ.get("BILEVEL_SANITIZE") == "1"


class Emulator:
    """NumPy, and of CuPy what launches kernels.

    ``order`` is that of blocks, warps and lanes: ``"forward"``, ``"backward"``, or an integer that
    seeds a shuffle. A kernel whose results differ with it has a race.
    """

    def __init__(self, order: str | int = "forward") -> None:
        self.order = {"forward": 0, "backward": 1}[order] if isinstance(order, str) else order + 2

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def RawModule(  # noqa: N802 # as in CuPy
        self, *, code: str, options: Sequence[str] = (), name_expressions: Sequence[str] = ()
    ) -> RawModule:
        """As ``cupy.RawModule``; of the options, only macros mean something here."""
        return RawModule(code, tuple(options), tuple(name_expressions), self.order)


class RawModule:
    """A text and the kernels that it is for; each is compiled when it is asked for."""

    def __init__(
        self, code: str, options: tuple[str, ...], names: tuple[str, ...], order: int
    ) -> None:
        self.code = code
        self.options = tuple(option for option in options if option.startswith(("-D", "-U")))
        self.names = names
        self.order = order
        self.kernels: dict[str, Kernel] = {}

    def get_function(self, name: str) -> Kernel:
        """The kernel of a name expression."""
        if name not in self.names:
            raise KernelError(f"{name} is not among the name expressions {self.names}")
        if name not in self.kernels:
            library = ctypes.PyDLL(str(built(self.code, name, self.options)))
            self.kernels[name] = Kernel(name, library, self.order)
        return self.kernels[name]


class Parameter(NamedTuple):
    """A parameter of a kernel, as its text declares it."""

    kind: str
    """``float``, ``integer``, ``struct``; ``input``, a pointer to const, or ``output``."""
    size: int
    """Bytes of it or, of a pointer, of what it points to; 0 for void."""

    def refuses(self, argument: Any) -> str | None:
        """Why it does not take an argument."""
        is_array = isinstance(argument, np.ndarray)
        if not is_array and not isinstance(argument, np.generic):
            return f"takes a scalar or an array of NumPy, not {argument!r}"
        if is_array != (self.kind in ("input", "output")):
            return f"is {self.described()}, not for {'an array' if is_array else 'a scalar'}"
        kinds = {"float": "f", "integer": "iub"}.get(self.kind, argument.dtype.kind)
        if self.size not in (0, argument.dtype.itemsize) or argument.dtype.kind not in kinds:
            return f"is {self.described()}, not for {argument.dtype}"
        if self.kind == "output" and not argument.flags.writeable:
            return "is not const, and the array may not be written to"
        return None

    def described(self) -> str:
        pointers = {"input": "a pointer to const values", "output": "a pointer to values"}
        return f"{pointers.get(self.kind, self.kind)} of {self.size} bytes"


class Launch(ctypes.Structure):
    """``gpu::Launch``."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("order", ctypes.c_uint),
    )


class Kernel:
    """A kernel that can be launched."""

    def __init__(self, name: str, library: ctypes.PyDLL, order: int) -> None:
        self.name = name
        self.order = order
        self._most_shared = 48 << 10
        library.parameters.restype = library.launch.restype = ctypes.c_char_p
        self._launch = library.launch
        declared = library.parameters().decode().split(";")[:-1]
        self.parameters = [Parameter(p.split()[0], int(p.split()[1])) for p in declared]

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes of shared memory that a launch may ask for."""
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= MOST_SHARED_MEMORY:
            self._refuse(f"{size} bytes of shared memory; a block has {MOST_SHARED_MEMORY}")
        self._most_shared = size

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        """Run it, to its end."""
        self._check_sizes(grid, block, shared_mem)
        self._check_arguments(args)
        values = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in args]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        how = Launch(
            (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid))),
            (ctypes.c_uint * 3)(*block, *(1,) * (3 - len(block))),
            shared_mem,
            self.order,
        )
        error = self._launch(ctypes.byref(how), pointers)
        if error is not None:
            self._refuse(error.decode())

    def _check_sizes(
        self, grid: tuple[int, ...], block: tuple[int, ...], shared_memory: int
    ) -> None:
        for what, sizes in (("grid", grid), ("block", block)):
            if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3 or min(sizes) < 1:
                self._refuse(f"a {what} is a tuple of one to three positive sizes, not {sizes}")
        if any(size > most for size, most in zip(grid, MOST_BLOCKS, strict=False)):
            self._refuse(f"a grid has at most {MOST_BLOCKS} blocks, not {grid}")
        if prod(block) > MOST_THREADS or (*block, 1, 1)[2] > 64:
            self._refuse(f"a block has at most {MOST_THREADS} threads, 64 deep, not {block}")
        if not 0 <= shared_memory <= self._most_shared:
            self._refuse(
                f"{shared_memory} bytes of shared memory; max_dynamic_shared_size_bytes is "
                f"{self._most_shared}"
            )

    def _check_arguments(self, arguments: tuple[Any, ...]) -> None:
        if len(arguments) != len(self.parameters):
            self._refuse(f"{len(self.parameters)} parameters, {len(arguments)} arguments")
        for i, (parameter, argument) in enumerate(zip(self.parameters, arguments, strict=True)):
            why_not = parameter.refuses(argument)
            if why_not:
                self._refuse(f"parameter {i} {why_not}")

    def _refuse(self, why: str) -> None:
        raise KernelError(f"{self.name}: {why}")


def built(code: str, name: str, options: tuple[str, ...]) -> Path:
    """The library of one kernel: compiled now, or kept from when it was."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise KernelError("g++ compiles kernels for the CPU, and is not here: install it")
    include = pathfinder.find_nvidia_header_directory("cudart")
    flags = (*OPTIONS, *(SANITIZED if sanitizes() else OPTIMIZED), *options)
    command = [compiler, *flags, f"-I{HERE}", f"-I{include}", "-w", "-x", "c++", "-"]
    text = '#include "gpu_on_cpu.h"\n#line 1 "kernel.cu"\n' + code + ENTRIES.format(name=name)
    parts = (*command, *((HERE / header).read_text() for header in HEADERS), text)
    folder = Path(tempfile.gettempdir()) / f"bilevel-emulator-{os.getuid()}"
    library = folder / f"{sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        _compile(command, name, text, library)
    return library


def _compile(command: list[str], name: str, text: str, library: Path) -> None:
    aside = library.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [*command, "-o", str(aside)], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise KernelError(f"{name} does not compile:\n{done.stderr}")
    os.replace(aside, library)
