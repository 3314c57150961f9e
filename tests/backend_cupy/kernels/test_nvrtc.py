"""What is said of kernels that NVRTC compiles."""

from __future__ import annotations

import pytest

from tests.backend_cupy.kernels.nvrtc import SHARED_MEMORY, Compiled, compiled

TEXT = """
#include <cuda_fp16.h>
template <class T> __global__ void __launch_bounds__(96) kernel(const T* x, float* y) {
    __shared__ float shared[32];
    shared[threadIdx.x % 32] = float(x[threadIdx.x]);
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x * 7 % 32];
}
__global__ void __launch_bounds__(1024) spilling(const float* x, float* y) {
    float held[128];
#pragma unroll
    for (int i = 0; i < 128; i++) held[i] = x[1024 * i + threadIdx.x];
    for (int round = 0; round < 9; round++)
#pragma unroll
        for (int i = 0; i < 128; i++) held[i] = held[i] * held[(i + 1) % 128] + held[(7 * i) % 128];
#pragma unroll
    for (int i = 0; i < 128; i++) y[1024 * i + threadIdx.x] = held[i];
}
__global__ void tensor_cores(const uint4* x, float* y) {
    extern __shared__ uint4 shared[];
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(shared + threadIdx.x));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(x + threadIdx.x));
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    unsigned a, b, c, d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at));
    float sum[4] = {};
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%4,%5}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(a), "r"(b), "r"(c), "r"(d));
    y[threadIdx.x] = sum[0] + sum[1] + sum[2] + sum[3];
}
"""

NAMES = ("kernel<__half>", "kernel<float>", "spilling", "tensor_cores")

MATRIX_INSTRUCTIONS = ("HMMA", "LDSM", "LDGSTS")


@pytest.fixture(scope="module", params=SHARED_MEMORY, ids="sm_{}".format)
def kernels(request: pytest.FixtureRequest) -> dict[str, Compiled]:
    return compiled(TEXT, NAMES, request.param)


def test_kernels_go_by_their_names(kernels: dict[str, Compiled]) -> None:
    assert tuple(kernels) == NAMES
    assert [kernel.name for kernel in kernels.values()] == [*NAMES]
    half, single = (kernels[name].sass for name in NAMES[:2])
    assert "HADD2.F32" in half
    assert "HADD2.F32" not in single


@pytest.mark.parametrize("name", NAMES)
def test_what_a_kernel_takes(kernels: dict[str, Compiled], name: str) -> None:
    kernel = kernels[name]
    threads = {"kernel": 96, "spilling": 1024}.get(name.partition("<")[0])
    assert kernel.threads == threads
    assert 8 <= kernel.registers <= 65_536 // (threads or 1024)
    assert kernel.shared == (128 if name.startswith("kernel") else 0)


@pytest.mark.parametrize("name", NAMES)
def test_spills_are_found(kernels: dict[str, Compiled], name: str) -> None:
    kernel = kernels[name]
    for size in (kernel.stack, kernel.spill_stores, kernel.spill_loads):
        assert (size > 0) == (name == "spilling")


@pytest.mark.parametrize("name", NAMES)
def test_instructions_are_found(kernels: dict[str, Compiled], name: str) -> None:
    for instruction in MATRIX_INSTRUCTIONS:
        assert (instruction in kernels[name].sass) == (name == "tensor_cores")


def test_options_reach_the_compiler() -> None:
    text = "__global__ void kernel(float* y) { y[0] = y[1] / NUMBER; }"
    usual, fast = (
        compiled(text, ["kernel"], 90, define_macro=("NUMBER", "y[2]"), use_fast_math=is_fast)
        for is_fast in (False, True)
    )
    assert len(fast["kernel"].sass) < len(usual["kernel"].sass)


def test_a_text_that_does_not_compile() -> None:
    with pytest.raises(Exception, match='identifier "x" is undefined'):
        compiled("__global__ void kernel() { x; }", ["kernel"], 90)
