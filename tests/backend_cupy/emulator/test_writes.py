"""When copies land, what memory holds before it is written, and writes out of bounds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.backend_cupy.emulator import gcc
from tests.backend_cupy.emulator.emulator import Emulator, LaunchError
from tests.backend_cupy.emulator.launching import kernel_of, launch

COPIES = """
__global__ void kernel(const float* x, float* early, float* first, float* second) {
    auto shared = reinterpret_cast<float*>(shared_memory()) + 4 * threadIdx.x;
    copy_async(shared, x + 4 * threadIdx.x, true);
    commit_copies();
    copy_async(shared + 128, nullptr, false);
    commit_copies();
    early[threadIdx.x] = shared[0];
    await_copies<1>();
    first[threadIdx.x] = shared[1] + shared[128];
    await_copies<0>();
    second[threadIdx.x] = shared[2] + shared[128];
}
"""


def test_copies_land_when_they_are_awaited() -> None:
    x = np.arange(1, 129, dtype=np.float32)
    early, first, second = np.empty((3, 32), np.float32)
    launch(COPIES, x, early, first, second, shared=1024)
    assert np.isnan(early).all()
    assert np.isnan(first).all()
    assert (second == x[2::4]).all()


def test_copies_land_at_once_where_threads_run_backward() -> None:
    x = np.arange(1, 129, dtype=np.float32)
    early, first, second = np.empty((3, 32), np.float32)
    launch(COPIES, x, early, first, second, shared=1024, order="backward")
    assert (early == x[0::4]).all()
    assert (first == x[1::4]).all()
    assert (second == x[2::4]).all()


def test_shared_memory_is_nan_until_it_is_written() -> None:
    code = """
    __global__ void kernel(float* y) {
        auto shared = reinterpret_cast<float*>(shared_memory());
        y[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x];
        shared[threadIdx.x] = 1;
    }"""
    y = np.zeros(96, np.float32)
    launch(code, y, blocks=3, shared=128)
    assert np.isnan(y).all()


def test_memory_is_nan_until_it_is_written() -> None:
    xp = Emulator()
    assert np.isnan(xp.empty((3, 4), dtype=np.float16)).all()
    assert np.isnan(xp.empty_like(np.zeros(5, ml_dtypes.bfloat16))).all()
    assert xp.empty((0, 4), dtype=np.float32).shape == (0, 4)
    assert xp.exp is np.exp


@pytest.mark.skipif(gcc.sanitizes(), reason="the sanitizer itself watches over what is beside")
@pytest.mark.parametrize("beside", [-1, 32])
def test_writes_beside_an_array_are_noticed(beside: int) -> None:
    code = "__global__ void kernel(float* y, int at) { y[at] = 1; }"
    xp = Emulator()
    kernel = xp.RawModule(code=code, name_expressions=["kernel"]).get_function("kernel")
    y = xp.empty(32, dtype=xp.float32)
    kernel((1,), (1,), (y, np.int32(31)))
    assert y[31] == 1
    with pytest.raises(LaunchError, match="kernel: wrote beside an array of 128 bytes"):
        kernel((1,), (1,), (y, np.int32(beside)))


@pytest.mark.skipif(gcc.sanitizes(), reason="the sanitizer itself watches over what is beyond")
def test_writes_beyond_shared_memory_are_noticed() -> None:
    code = "__global__ void kernel() { if (blockIdx.x == 1) shared_memory()[99] = 1; }"
    kernel = kernel_of(code)
    kernel((2,), (32,), (), shared_mem=100)
    message = r"kernel: block \(1, 0, 0\): wrote beyond its shared memory"
    with pytest.raises(LaunchError, match=message):
        kernel((2,), (32,), (), shared_mem=99)
