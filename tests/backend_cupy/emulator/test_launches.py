"""Launches that a GPU would refuse, or that CuPy would get wrong, are errors on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backend_cupy.emulator.emulator import Array, Emulator, LaunchError
from tests.backend_cupy.emulator.launching import kernel_of

ARGUMENTS = """
struct Pair { long long a, b; };
__global__ void kernel(const float* x, float* y, void* any, int n, double scale, Pair pair) {}
"""


def arguments() -> dict[str, Any]:
    pair = np.array([(1, 2)], np.dtype([("a", np.int64), ("b", np.int64)], align=True))
    x, y, anything = np.zeros((3, 4), np.float32)
    return {
        "x": x,
        "y": y,
        "any": anything.astype(np.float16),
        "n": np.int32(3),
        "scale": np.float64(0.5),
        "pair": pair,
    }


def read_only() -> Array:
    x = np.zeros(4, np.float32)
    x.flags.writeable = False
    return x


REFUSED = [
    ("n", 3, "parameter 3 takes a number or an array of NumPy, not 3$"),
    ("scale", 0.5, "parameter 4 takes a number or an array of NumPy, not 0.5$"),
    ("x", None, "parameter 0 takes a number or an array of NumPy, not None$"),
    ("n", np.int64(3), "parameter 3 is integer of 4 bytes, not for a value of int64"),
    ("n", np.float32(3), "parameter 3 is integer of 4 bytes, not for a value of float32"),
    ("scale", np.float32(3), "parameter 4 is float of 8 bytes, not for a value of float32"),
    ("scale", np.int64(3), "parameter 4 is float of 8 bytes, not for a value of int64"),
    ("pair", np.zeros(1, "i4, i4"), "parameter 5 is struct of 16 bytes, not for a value of"),
    ("pair", np.zeros(2, "i8, i8"), "parameter 5 is struct of 16 bytes, not for an array of"),
    ("pair", np.zeros(1, "i8, i8")[0], "parameter 5 takes a number or an array of NumPy, not"),
    ("pair", np.complex128(3), "parameter 5 is struct of 16 bytes, not for a value of complex128"),
    ("n", np.zeros(1, np.int32), "parameter 3 is integer of 4 bytes, not for an array of int32"),
    ("x", np.float32(3), "parameter 0 is a pointer to const values of 4 bytes, not for a value"),
    (
        "y",
        np.zeros(4),
        "parameter 1 is a pointer to values of 4 bytes, not for an array of float64",
    ),
    ("y", read_only(), "parameter 1 is not const, and the array is read-only"),
]


@pytest.mark.parametrize(("name", "argument", "message"), REFUSED)
def test_arguments_that_are_not_declared(name: str, argument: Any, message: str) -> None:
    kernel = kernel_of(ARGUMENTS)
    kernel((1,), (32,), (*arguments().values(),))
    kernel((1,), (32,), (*{**arguments(), "x": read_only()}.values(),))
    with pytest.raises(LaunchError, match=f"^kernel: {message}"):
        kernel((1,), (32,), (*{**arguments(), name: argument}.values(),))


@pytest.mark.parametrize("count", [0, 5, 7])
def test_another_number_of_arguments(count: int) -> None:
    given = (*arguments().values(), np.int32(0))[:count]
    with pytest.raises(LaunchError, match=f"kernel: takes 6 arguments, not {count}"):
        kernel_of(ARGUMENTS)((1,), (32,), given)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0,), (32,), 0, r"a grid is a tuple of one to three positive sizes, not \(0,\)"),
        ((1, 1, 1, 1), (32,), 0, "a grid is a tuple of one to three positive sizes"),
        (1, (32,), 0, "a grid is a tuple of one to three positive sizes, not 1"),
        ((1, 65536), (32,), 0, "a grid has at most"),
        ((1,), (32, 0), 0, "a block is a tuple of one to three positive sizes"),
        ((1,), (32, 33), 0, "a block has at most 1024 threads"),
        ((1,), (32,), 49153, "max_dynamic_shared_size_bytes is 49152, not 49153"),
    ],
)
def test_sizes_that_a_gpu_does_not_launch(grid: Any, block: Any, shared: int, message: str) -> None:
    kernel = kernel_of("__global__ void kernel() {}")
    with pytest.raises(LaunchError, match=message):
        kernel(grid, block, (), shared_mem=shared)


def test_more_shared_memory_is_asked_for() -> None:
    kernel = kernel_of("__global__ void kernel() { shared_memory()[232447] = 1; }")
    kernel.max_dynamic_shared_size_bytes = 232_448
    kernel((1,), (32,), (), shared_mem=232_448)
    with pytest.raises(LaunchError, match="at most 232448 bytes of shared memory"):
        kernel.max_dynamic_shared_size_bytes = 232_449


def test_kernels_without_a_name() -> None:
    module = Emulator().RawModule(code="__global__ void kernel() {}", name_expressions=["a", "b"])
    with pytest.raises(LaunchError, match=r"kernel is not among the name expressions \('a', 'b'\)"):
        module.get_function("kernel")
