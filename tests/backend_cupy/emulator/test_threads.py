"""Threads of the emulator compute what those of a GPU would, in any order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backend_cupy.emulator.launching import ORDERS, kernel_of, launch


def test_a_grid_covers_its_threads() -> None:
    code = """
    __global__ void kernel(int* y) {
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        y[block * 24 + thread] = 1000 * block + thread;
    }"""
    y = np.zeros((30, 24), np.int32)
    kernel = kernel_of(code)
    kernel((2, 3, 5), (3, 4, 2), (y,))
    assert (y == 1000 * np.arange(30)[:, None] + np.arange(24)).all()


def test_lanes_exchange_what_they_have() -> None:
    code = """
    __global__ void kernel(const double* x, double* across, double* first, unsigned* votes) {
        double mine = x[threadIdx.x];
        across[threadIdx.x] = __shfl_xor_sync(0xffffffff, mine, 5);
        first[threadIdx.x] = __shfl_sync(0xffffffff, float(mine), threadIdx.x / 2);
        votes[threadIdx.x] = __ballot_sync(0xffffffff, mine > 20);
    }"""
    i = np.arange(64)
    x = np.random.default_rng(0).permutation(64).astype(np.float64)
    want = np.packbits(x > 20, bitorder="little").view(np.uint32).repeat(32)
    for order in ORDERS:
        across, first, votes = np.empty_like(x), np.empty_like(x), np.empty(64, np.uint32)
        launch(code, x, across, first, votes, threads=64, order=order)
        assert (across == x[i ^ 5]).all()
        assert (first == x[i // 32 * 32 + i // 2 % 32]).all()
        assert (votes == want).all()


def test_the_last_warp_may_be_a_part_of_one() -> None:
    code = """
    __global__ void kernel(unsigned* votes, int* neighbours) {
        votes[threadIdx.x] = __ballot_sync(0xffffffff, 1);
        __syncwarp();
        neighbours[threadIdx.x] = __shfl_xor_sync(0xffffffff, int(threadIdx.x), 1);
    }"""
    votes, neighbours = np.empty(40, np.uint32), np.empty(40, np.int32)
    launch(code, votes, neighbours, threads=40)
    assert (votes == [2**32 - 1] * 32 + [2**8 - 1] * 8).all()
    assert (neighbours == np.arange(40) ^ 1).all()


def test_functions_of_bits_and_of_numbers() -> None:
    code = """
    __global__ void kernel(int* y, float* z) {
        int bits[] = {__popc(0xf0f1), __ffs(0), __ffs(24), __clz(0), __clz(24), __clz(-1),
                      max(3, -4), min(3u, 7u), __float_as_int(1.f)};
        for (int value : bits) *y++ = value;
        float numbers[] = {max(nanf(""), 2.f), fminf(2.f, 3.f), exp2f(3.f), log2f(8.f),
                           fmaf(2.f, 3.f, 4.f), __int_as_float(0x3f800000), min(1, 2.5f)};
        for (float value : numbers) *z++ = value;
    }"""
    y, z = np.empty(9, np.int32), np.empty(7, np.float32)
    launch(code, y, z, threads=1)
    assert y.tolist() == [9, 0, 4, 32, 27, 0, 3, 3, 0x3F800000]
    assert z.tolist() == [2, 2, 8, 3, 10, 1, 1]


def test_structures_are_passed_by_value() -> None:
    code = """
    struct Shape { int rows; long long stride; float scale; };
    __global__ void kernel(Shape shape, long long* strides, float* y) {
        strides[threadIdx.x] = shape.rows + shape.stride;
        y[threadIdx.x] = shape.scale;
    }"""
    fields = [("rows", np.int32), ("stride", np.int64), ("scale", np.float32)]
    shape = np.array([(3, 2**40, 0.5)], np.dtype(fields, align=True))
    strides, y = np.empty(32, np.int64), np.empty(32, np.float32)
    launch(code, shape, strides, y)
    assert (strides == 3 + 2**40).all()
    assert (y == 0.5).all()


REVERSED = """
__global__ void kernel(const float* x, float* y, int wait) {
    auto shared = reinterpret_cast<float*>(shared_memory());
    shared[threadIdx.x] = x[threadIdx.x];
    if (wait == 1) __syncwarp();
    if (wait == 2) __syncthreads();
    y[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.mark.parametrize(("threads", "wait"), [(32, 0), (32, 1), (64, 0), (64, 1), (64, 2)])
def test_orders_differ_where_there_is_a_race(threads: int, wait: int) -> None:
    x = np.random.default_rng(0).standard_normal(threads).astype(np.float32)
    results = []
    for order in ORDERS:
        y = np.zeros_like(x)
        launch(REVERSED, x, y, np.int32(wait), threads=threads, shared=4 * threads, order=order)
        results.append(y)
    safe = wait == 2 or (threads == 32 and wait == 1)
    assert safe == all((y == x[::-1]).all() for y in results)
    assert safe == ((results[0] == results[1]).all())


def test_orders_differ_where_blocks_race() -> None:
    code = "__global__ void kernel(unsigned* y) { *y = blockIdx.x; }"
    found = set()
    for order in ORDERS:
        y = np.zeros(1, np.uint32)
        launch(code, y, blocks=9, threads=1, order=order)
        found.add(int(y[0]))
    assert {0, 8} <= found
    assert len(found) > 2


MAPPINGS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPPINGS.exists(), reason="only Linux lists the mappings of a process")
def test_stacks_are_kept_for_the_next_launch() -> None:
    code = "__global__ void kernel() {}"
    counts = []
    for _ in range(2):
        for threads in (1, 256) * 9:
            launch(code, threads=threads)
        counts.append(MAPPINGS.read_text().count("\n"))
    assert counts[1] < counts[0] + 256


def test_the_example_of_the_readme() -> None:
    text = Path(__file__).with_name("README.md").read_text()
    _, example, _ = re.split(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert (names["y"] == 2).all()
