"""CUDA C++ on a CPU: what stands in for the module cupy where there is no GPU.

    xp = Emulator()
    module = xp.RawModule(code=text, name_expressions=["forward<float, 32, 16>"])
    kernel = module.get_function("forward<float, 32, 16>")
    kernel(grid, block, arguments, shared_mem=1024)

Arrays are NumPy's, those of bfloat16 with the dtype of ml_dtypes. What a GPU refuses to launch is
refused here, and what it leaves undefined is an error as far as it is noticed:

- Threads wait for others that never come, or only some of a warp take part in what all must.
- An argument is not what the kernel declares: CuPy passes whatever bits it is given.
- A copy is not awaited. Copies land as late or as early as they may, by the order of threads.
- Shared memory is read before it is written, or that of ``xp.empty``: both are NaN until then.
- A kernel writes just beside an array of ``xp.empty``, or beyond shared memory. Under
  ``sanitized.py`` each access outside of an array or of shared memory ends the process, and each
  that is not aligned.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import array_api_compat.numpy
import numpy as np

from tests.backend_cupy.emulator import gcc

Array: TypeAlias = np.ndarray[Any, Any]

MAX_THREADS = 1024
MAX_BLOCKS = (2**31 - 1, 65_535, 65_535)
SHARED_MEMORY = 48 << 10
"""Bytes that each kernel may have."""
MAX_SHARED_MEMORY = 232_448
"""Bytes that it may have where ``max_dynamic_shared_size_bytes`` says so, on sm_90."""

MARGIN = 256
"""Bytes on either side of an array, where no sanitizer watches over them."""


class LaunchError(RuntimeError):
    """A launch that a GPU would refuse, or a mistake that a kernel made."""


class Emulator:
    """NumPy by the array API standard, as the backend has CuPy, and of CuPy what launches kernels.

    ``order`` is that of blocks, warps and lanes: ``"forward"``, ``"backward"``, or an integer that
    seeds a shuffle. A kernel whose results differ with it has a race.
    """

    def __init__(self, order: str | int = "forward") -> None:
        self.order = {"forward": 0, "backward": 1}[order] if isinstance(order, str) else order + 2
        self.buffers: list[weakref.ref[Array]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(array_api_compat.numpy, name)

    def empty(self, shape: int | tuple[int, ...], *, dtype: Any = float) -> Array:
        """An array whose bits are ones: floats are NaN until they are written."""
        margin = 0 if gcc.sanitizes() else MARGIN
        size = prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
        buffer = np.full(size + 2 * margin, 0xFF, np.uint8)
        self.buffers = [kept for kept in self.buffers if kept() is not None]
        self.buffers.append(weakref.ref(buffer))
        return buffer[margin : margin + size].view(dtype).reshape(shape)

    def empty_like(self, x: Array) -> Array:
        """An array of the shape and dtype of ``x``, as from :meth:`empty`."""
        return self.empty(x.shape, dtype=x.dtype)

    def RawModule(  # noqa: N802 # as in CuPy
        self, *, code: str, options: Sequence[str] = (), name_expressions: Sequence[str] = ()
    ) -> RawModule:
        """As ``cupy.RawModule``; the options are NVRTC's, and mean nothing here."""
        return RawModule(self, code, tuple(name_expressions))

    def overwritten(self) -> int | None:
        """The size in bytes of an array beside which something was written."""
        for kept in self.buffers if not gcc.sanitizes() else ():
            buffer = kept()
            if buffer is not None and not (buffer[:MARGIN] & buffer[-MARGIN:] == 0xFF).all():
                return buffer.size - 2 * MARGIN
        return None


class RawModule:
    """A text, and the kernels in it that have names; each is compiled when it is asked for."""

    def __init__(self, xp: Emulator, code: str, names: tuple[str, ...]) -> None:
        self.xp = xp
        self.code = code
        self.names = names
        self.kernels: dict[str, Kernel] = {}

    def get_function(self, name: str) -> Kernel:
        """The kernel of a name expression."""
        if name not in self.names:
            raise LaunchError(f"{name} is not among the name expressions {self.names}")
        if name not in self.kernels:
            library = ctypes.PyDLL(str(gcc.built(self.code, name)))
            self.kernels[name] = Kernel(self.xp, name, library)
        return self.kernels[name]


class Parameter(ctypes.Structure):
    """``gpu::Parameter``: one of a kernel, as its text declares it."""

    _fields_ = (("_kind", ctypes.c_char_p), ("bytes", ctypes.c_size_t))

    @property
    def kind(self) -> str:
        """``float``, ``integer``, ``struct``; ``input``, a pointer to const, or ``output``."""
        return self._kind.decode() if self._kind else ""

    def refuses(self, argument: Any) -> str | None:
        """Why it does not take an argument."""
        if isinstance(argument, np.void) or not isinstance(argument, np.ndarray | np.generic):
            return f"takes a number or an array of NumPy, not {argument!r}"
        is_array = isinstance(argument, np.ndarray) and not _is_structure(argument)
        kinds = {"float": "f", "integer": "iub", "struct": "Vf"}
        dtype = argument.dtype
        if (
            is_array != (self.kind in ("input", "output"))
            or dtype.kind not in kinds.get(self.kind, dtype.kind)
            or self.bytes not in (0, dtype.itemsize)
        ):
            return f"is {self}, not for {'an array' if is_array else 'a value'} of {dtype}"
        if self.kind == "output" and not argument.flags.writeable:
            return "is not const, and the array is read-only"
        return None

    def __str__(self) -> str:
        names = {"input": "a pointer to const values", "output": "a pointer to values"}
        return f"{names.get(self.kind, self.kind)} of {self.bytes} bytes"


def _is_structure(argument: Any) -> bool:
    """Whether it goes by value: CuPy takes structures as arrays of NumPy that hold one."""
    return isinstance(argument, np.ndarray) and argument.size == 1 and bool(argument.dtype.names)


def _value(argument: Any) -> Array:
    """What a kernel gets: a number, a structure, or an address."""
    if isinstance(argument, np.ndarray) and not _is_structure(argument):
        return np.array(argument.ctypes.data)
    return np.array(argument)


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

    def __init__(self, xp: Emulator, name: str, library: ctypes.PyDLL) -> None:
        self.xp = xp
        self.name = name
        self._shared_memory = SHARED_MEMORY
        self._launch = library.launch
        self._launch.restype = ctypes.c_char_p
        library.parameters.restype = ctypes.POINTER(Parameter)
        declared = library.parameters()
        count = next(i for i in range(4096) if not declared[i].kind)
        self.parameters = declared[:count]

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes of shared memory that a launch may ask for."""
        return self._shared_memory

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= MAX_SHARED_MEMORY:
            self._refuse(f"a block has at most {MAX_SHARED_MEMORY} bytes of shared memory")
        self._shared_memory = size

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
        values = [_value(argument) for argument in args]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = ((ctypes.c_uint * 3)(*x, *(1,) * (3 - len(x))) for x in (grid, block))
        error = self._launch(ctypes.byref(Launch(*sizes, shared_mem, self.xp.order)), pointers)
        if error is not None:
            self._refuse(error.decode())
        overwritten = self.xp.overwritten()
        if overwritten is not None:
            self._refuse(f"wrote beside an array of {overwritten} bytes")

    def _check_sizes(
        self, grid: tuple[int, ...], block: tuple[int, ...], shared_memory: int
    ) -> None:
        for what, sizes in (("grid", grid), ("block", block)):
            if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3 or min(sizes) < 1:
                self._refuse(f"a {what} is a tuple of one to three positive sizes, not {sizes}")
        if any(size > most for size, most in zip(grid, MAX_BLOCKS, strict=False)):
            self._refuse(f"a grid has at most {MAX_BLOCKS} blocks, not {grid}")
        if prod(block) > MAX_THREADS:
            self._refuse(f"a block has at most {MAX_THREADS} threads, not {block}")
        if not 0 <= shared_memory <= self._shared_memory:
            self._refuse(
                f"max_dynamic_shared_size_bytes is {self._shared_memory}, not {shared_memory}"
            )

    def _check_arguments(self, arguments: tuple[Any, ...]) -> None:
        if len(arguments) != len(self.parameters):
            self._refuse(f"takes {len(self.parameters)} arguments, not {len(arguments)}")
        for i, (parameter, argument) in enumerate(zip(self.parameters, arguments, strict=True)):
            why_not = parameter.refuses(argument)
            if why_not is not None:
                self._refuse(f"parameter {i} {why_not}")

    def _refuse(self, why: str) -> None:
        raise LaunchError(f"{self.name}: {why}")
