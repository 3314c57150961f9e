"""Tensor cores, the loads of their fragments, and numbers of two bytes, in any order of threads."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.backend_cupy.emulator import gcc
from tests.backend_cupy.emulator.launching import HALVES, ORDERS, launch


@pytest.mark.parametrize(("name", "dtype"), HALVES)
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


@pytest.mark.parametrize(("name", "dtype"), HALVES)
def test_products_of_matrices(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (16, 16)).astype(dtype), rng.integers(-9, 9, (16, 8)).astype(dtype)
    c = rng.standard_normal((16, 8)).astype(np.float32).round(3)
    want = c + a.astype(np.float32) @ b.astype(np.float32)
    for order in ORDERS:
        sums = c.copy()
        launch(PRODUCT, a, b, sums, name=f"kernel<{name}>", order=order)
        np.testing.assert_array_equal(sums, want)


@pytest.mark.parametrize("function", ["load_matrices", "load_matrices_transposed"])
def test_matrices_are_loaded(function: str) -> None:
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
    want = x if function == "load_matrices" else x.transpose(0, 2, 1)
    for order in ORDERS:
        y = np.empty_like(x)
        launch(code.replace("FUNCTION", function), x, y, shared=512, order=order)
        np.testing.assert_array_equal(y, want)


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


@pytest.mark.parametrize(("name", "dtype"), HALVES)
def test_products_through_shared_memory(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (2, 16, 16)).astype(dtype)
    want = a.astype(np.float32) @ b.astype(np.float32)
    for order, (transposed, right) in product(ORDERS, (("true", b), ("false", b.T.copy()))):
        c = np.empty((16, 16), np.float32)
        how = f"kernel<{name}, {transposed}>"
        launch(THROUGH_SHARED, a, right, c, name=how, shared=1024, order=order)
        np.testing.assert_array_equal(c, want)


def test_fibers_that_the_system_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcc, "OPTIONS", (*gcc.OPTIONS, "-DGPU_ON_CPU_UCONTEXT"))
    test_products_through_shared_memory("__half", np.float16)
