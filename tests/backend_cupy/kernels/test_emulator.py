"""Kernels on the CPU compute what a GPU would, in any order of their threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gcc
import ml_dtypes
import numpy as np
import pytest
from emulator import Emulator, LaunchError

ORDERS = ("forward", "backward", 0, 1, 2)


def launch(
    code: str,
    *args: Any,
    name: str = "kernel",
    blocks: int = 1,
    threads: int = 32,
    shared: int = 0,
    order: str | int = "forward",
) -> None:
    """Run the kernel of a text."""
    module = Emulator(order).RawModule(code=code, name_expressions=[name])
    module.get_function(name)((blocks,), (threads,), args, shared_mem=shared)


def test_a_grid_covers_its_threads() -> None:
    code = """
    __global__ void kernel(int* y) {
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        y[block * 24 + thread] = 1000 * block + thread;
    }"""
    y = np.zeros((30, 24), np.int32)
    kernel = Emulator().RawModule(code=code, name_expressions=["kernel"]).get_function("kernel")
    kernel((2, 3, 5), (3, 4, 2), (y,))
    assert (y == 1000 * np.arange(30)[:, None] + np.arange(24)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_exchange_what_they_have(order: str | int) -> None:
    code = """
    __global__ void kernel(const double* x, double* across, double* first, unsigned* votes) {
        double mine = x[threadIdx.x];
        across[threadIdx.x] = __shfl_xor_sync(0xffffffff, mine, 5);
        first[threadIdx.x] = __shfl_sync(0xffffffff, float(mine), threadIdx.x / 2);
        votes[threadIdx.x] = __ballot_sync(0xffffffff, mine > 20);
    }"""
    i = np.arange(64)
    x = np.random.default_rng(0).permutation(64).astype(np.float64)
    across, first, votes = np.empty_like(x), np.empty_like(x), np.empty(64, np.uint32)
    launch(code, x, across, first, votes, threads=64, order=order)
    assert (across == x[i ^ 5]).all()
    assert (first == x[i // 32 * 32 + i // 2 % 32]).all()
    assert (votes == np.packbits(x > 20, bitorder="little").view(np.uint32).repeat(32)).all()


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


TYPES = [("__half", np.float16), ("__nv_bfloat16", ml_dtypes.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), TYPES)
def test_numbers_of_two_bytes(name: str, dtype: Any) -> None:
    code = """
    template <class T> __global__ void kernel(const T* x, float* y, T* z) {
        y[threadIdx.x] = float(x[threadIdx.x]);
        z[threadIdx.x] = T(y[threadIdx.x] / 3.f);
    }"""
    x = np.random.default_rng(0).standard_normal(32).astype(dtype)
    y, z = np.empty(32, np.float32), np.empty_like(x)
    launch(code, x, y, z, name=f"kernel<{name}>")
    assert (y == x.astype(np.float32)).all()
    assert (z == (y / np.float32(3)).astype(dtype)).all()


def test_pairs_and_vectors() -> None:
    code = """
    __global__ void kernel(const float* x, __half* y, __nv_bfloat16* z) {
        float4 four = reinterpret_cast<const float4*>(x)[threadIdx.x];
        auto to = reinterpret_cast<__half2*>(y) + 2 * threadIdx.x;
        to[0] = __floats2half2_rn(four.x, four.y);
        to[1] = __floats2half2_rn(four.z, four.w);
        auto other = reinterpret_cast<__nv_bfloat162*>(z) + 2 * threadIdx.x;
        other[0] = __floats2bfloat162_rn(four.x, four.y);
        other[1] = __floats2bfloat162_rn(four.z, four.w);
    }"""
    x = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    y, z = np.empty(128, np.float16), np.empty(128, ml_dtypes.bfloat16)
    launch(code, x, y, z)
    assert (y == x.astype(np.float16)).all()
    assert (z == x.astype(ml_dtypes.bfloat16)).all()


# Where a lane's registers have their numbers: PTX ISA, "Matrix Fragments for mma.m16n8k16".
PRODUCT = """
template <class T> __device__ unsigned pair(const T* at, int step) {
    T two[2] = {at[0], at[step]};
    return *reinterpret_cast<unsigned*>(two);
}
template <class T> __global__ void kernel(const T* a, const T* b, float* c) {
    int g = threadIdx.x / 4, p = threadIdx.x % 4 * 2;
    unsigned left[4] = {pair(a + 16 * g + p, 1), pair(a + 16 * (g + 8) + p, 1),
                        pair(a + 16 * g + p + 8, 1), pair(a + 16 * (g + 8) + p + 8, 1)};
    unsigned right[2] = {pair(b + 8 * p + g, 8), pair(b + 8 * (p + 8) + g, 8)};
    float sum[4] = {c[8 * g + p], c[8 * g + p + 1], c[8 * (g + 8) + p], c[8 * (g + 8) + p + 1]};
    multiply_add(sum, left, right, T());
    c[8 * g + p] = sum[0], c[8 * g + p + 1] = sum[1];
    c[8 * (g + 8) + p] = sum[2], c[8 * (g + 8) + p + 1] = sum[3];
}
"""


@pytest.mark.parametrize(("name", "dtype"), TYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_products_of_matrices(name: str, dtype: Any, order: str | int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (16, 16)).astype(dtype), rng.integers(-9, 9, (16, 8)).astype(dtype)
    c = rng.standard_normal((16, 8)).astype(np.float32).round(3)
    want = c + a.astype(np.float32) @ b.astype(np.float32)
    launch(PRODUCT, a, b, c, name=f"kernel<{name}>", order=order)
    np.testing.assert_array_equal(c, want)


@pytest.mark.parametrize("function", ["load_matrices", "load_matrices_transposed"])
@pytest.mark.parametrize("order", ORDERS)
def test_matrices_are_loaded(function: str, order: str | int) -> None:
    code = """
    __global__ void kernel(const unsigned short* x, unsigned short* y) {
        auto shared = reinterpret_cast<unsigned short*>(shared_memory());
        for (int i = threadIdx.x; i < 256; i += 32) shared[i] = x[i];
        __syncwarp();
        unsigned pairs[4];
        FUNCTION(pairs, shared + 8 * threadIdx.x);
        for (int i = 0; i < 4; i++) reinterpret_cast<unsigned*>(y)[32 * i + threadIdx.x] = pairs[i];
    }"""
    x = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    y = np.empty_like(x)
    launch(code.replace("FUNCTION", function), x, y, shared=512, order=order)
    np.testing.assert_array_equal(y, x if function == "load_matrices" else x.transpose(0, 2, 1))


# Rows of matrices that lanes name as in CUTLASS; b has rows of k or, transposed, of n.
THROUGH_SHARED = """
template <class T, bool transposed> __global__ void kernel(const T* a, const T* b, float* c) {
    auto shared = reinterpret_cast<T*>(shared_memory());
    int lane = threadIdx.x;
    copy_async(shared + 8 * lane, a + 8 * lane, true);
    copy_async(shared + 256 + 8 * lane, b + 8 * lane, true);
    commit_copies();
    await_copies<0>();
    __syncwarp();
    unsigned left[4], right[4];
    load_matrices(left, shared + lane % 16 * 16 + lane / 16 * 8);
    if (transposed) load_matrices_transposed(right, shared + 256 + lane % 16 * 16 + lane / 16 * 8);
    else load_matrices(right, shared + 256 + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8);
    for (int tile = 0; tile < 2; tile++) {
        float sum[4] = {};
        unsigned half[2] = {right[2 * tile], right[2 * tile + 1]};
        multiply_add(sum, left, half, T());
        for (int i = 0; i < 4; i++)
            c[(lane / 4 + i / 2 * 8) * 16 + tile * 8 + lane % 4 * 2 + i % 2] = sum[i];
    }
}
"""


@pytest.mark.parametrize(("name", "dtype"), TYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_products_through_shared_memory(name: str, dtype: Any, order: str | int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (2, 16, 16)).astype(dtype)
    want = a.astype(np.float32) @ b.astype(np.float32)
    for transposed, right in (("true", b), ("false", b.T.copy())):
        c = np.empty((16, 16), np.float32)
        how = f"kernel<{name}, {transposed}>"
        launch(THROUGH_SHARED, a, right, c, name=how, shared=1024, order=order)
        np.testing.assert_array_equal(c, want)


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
    kernel = Emulator().RawModule(code=code, name_expressions=["kernel"]).get_function("kernel")
    kernel((2,), (32,), (), shared_mem=100)
    message = r"kernel: block \(1, 0, 0\): wrote beyond its shared memory"
    with pytest.raises(LaunchError, match=message):
        kernel((2,), (32,), (), shared_mem=99)


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


def test_fibers_that_the_system_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcc, "OPTIONS", (*gcc.OPTIONS, "-DGPU_ON_CPU_UCONTEXT"))
    test_products_through_shared_memory("__half", np.float16, "forward")
