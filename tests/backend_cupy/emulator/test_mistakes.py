"""What a GPU would leave undefined is an error on the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backend_cupy.emulator import gcc
from tests.backend_cupy.emulator.emulator import LaunchError
from tests.backend_cupy.emulator.launching import kernel_of
from tests.backend_cupy.emulator.sanitized import environment
from tests.frameworks import VARIABLE, skip_or_fail

MISTAKES = [
    ("if (threadIdx.x < 40) __syncthreads();", "divergence.* 40 __syncthreads, 24 at their end$"),
    ("if (threadIdx.x != 3) __syncwarp();", "divergence.* 31 __syncwarp, 33 at their end$"),
    ("if (lane < 8) return; __ballot_sync(all, 1);", "divergence.* 48 __ballot_sync, 16 at their"),
    ("lane < 8 ? __syncwarp() : __syncthreads();", "divergence.* 48 __syncthreads, 16 __syncwarp$"),
    ("threadIdx.x < 32 ? __syncwarp() : __syncthreads();", "divergence.* 32 at their end"),
    (
        "if (lane < 8) __syncwarp(); else __ballot_sync(all, 1);",
        "divergence, these threads never meet: 24 __ballot_sync, 8 __syncwarp$",
    ),
    ("__syncwarp(0xff);", "__syncwarp has a mask that is not of all lanes"),
    ("__shfl_sync(0xffffu, 1, 0);", "__shfl_sync has a mask that is not of all lanes"),
    ("load_matrices(r, shared + 8);", "load_matrices has an address that is not of 16 bytes"),
    ("load_matrices(r, shared + 496);", None),
    ("load_matrices(r, shared + 512);", "load_matrices has an address outside of"),
    ("load_matrices_transposed(r, shared - 16);", "transposed has an address outside of"),
    ("copy_async(shared + 512, x, true);", "copy_async has an address outside of"),
    ("copy_async(shared + 4, x, true);", "copy_async has an address that is not of 16 bytes"),
    ("copy_async(shared, x + 4, true);", "copy_async has an address that is not of 16 bytes"),
    ("copy_async(shared, x, true); commit_copies();", "copy_async is not awaited"),
    ("copy_async(shared, x, true); await_copies<0>();", "copy_async is not awaited"),
    ("copy_async(shared, x, true); commit_copies(); await_copies<1>();", "is not awaited"),
    ("copy_async(shared, x, true); commit_copies(); await_copies<0>();", None),
]


@pytest.mark.parametrize(("body", "message"), MISTAKES)
def test_mistakes_of_a_kernel(body: str, message: str | None) -> None:
    """Where one is made, and that the next launch finds nothing of it."""
    code = """
    __global__ void kernel(const char* x, int mistaken) {
        unsigned r[4], all = 0xffffffff, lane = threadIdx.x % 32;
        unsigned char* shared = shared_memory();
        if (!mistaken) return __syncthreads();
        BODY
    }"""
    kernel = kernel_of(code.replace("BODY", body))
    x = np.zeros(16, np.int8)
    for _ in range(2):
        if message is None:
            kernel((2,), (64,), (x, np.int32(1)), shared_mem=512)
        else:
            with pytest.raises(LaunchError, match=rf"^kernel: block \(0, 0, 0\).*({message})"):
                kernel((2,), (64,), (x, np.int32(1)), shared_mem=512)
        kernel((2,), (64,), (x, np.int32(0)), shared_mem=512)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "float c[4]; unsigned b[2]; multiply_add(c, r, b, __half());",
            "multiply_add needs a warp",
        ),
        ("load_matrices(r, shared_memory());", "load_matrices needs a warp"),
        ("__shfl_sync(0xffffffff, 1, 20);", "is from a lane that the warp does not have"),
    ],
)
def test_what_needs_a_whole_warp(body: str, message: str) -> None:
    kernel = kernel_of("__global__ void kernel() { unsigned r[4]; BODY }".replace("BODY", body))
    with pytest.raises(LaunchError, match=rf"block \(0, 0, 0\), thread \(15, 0, 0\): .*{message}"):
        kernel((1,), (16,), (), shared_mem=512)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "__global__ void kernel() {\n  x = 1;\n}",
            "kernel does not compile:\nkernel.cu: .*\n.*:2:3",
        ),
        ("__global__ void kernel() { __shared__ int x; }", "is what shared_memory\\(\\) returns"),
        ("__global__ void other() {}", "kernel does not compile"),
    ],
)
def test_texts_that_do_not_compile(code: str, message: str) -> None:
    with pytest.raises(gcc.CompileError, match=message):
        kernel_of(code)


def test_a_missing_compiler_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gcc.missing() is None
    monkeypatch.setenv("PATH", "")
    why_not = gcc.missing()
    assert why_not is not None
    monkeypatch.setenv(VARIABLE, "numpy,cupy")
    with pytest.raises(pytest.fail.Exception, match=r"names cupy, but g\+\+ .* install it"):
        skip_or_fail("cupy", why_not)
    monkeypatch.setenv(VARIABLE, "numpy")
    with pytest.raises(pytest.skip.Exception, match=r"backend cupy: g\+\+ .* install it"):
        skip_or_fail("cupy", why_not)


SANITIZED = """
import numpy as np
from tests.backend_cupy.emulator.emulator import Emulator
text = "__global__ void kernel(const char* x, char* y, int at) {{ {body} }}"
kernel = Emulator().RawModule(code=text, name_expressions=["kernel"]).get_function("kernel")
x, y = np.zeros((2, 64), np.int8)
for at in (63, 64):
    kernel((1,), (32,), (x.copy(), y.copy(), np.int32(at)), shared_mem=64)
    print("launched", at)
"""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("if (threadIdx.x == 9) y[at] = 1;", "heap-buffer-overflow.*WRITE of size 1"),
        ("if (threadIdx.x == 9) y[0] = x[at];", "heap-buffer-overflow.*READ of size 1"),
        ("if (threadIdx.x == 9) shared_memory()[at] = 1;", "heap-buffer-overflow.*WRITE of size 1"),
        ("copy_async(shared_memory(), x + at / 64 * 64, true);", "heap-buffer-overflow.*READ"),
        ("if (at == 64) y[0] = *(const int*)(x + 1);", "misaligned address"),
        ("int z[64]; z[at] = 1; y[0] = z[at / 2];", "index 64 out of bounds"),
        ("y[0] = (at + 2147483584) / 2;", "signed integer overflow"),
    ],
)
def test_sanitizers_end_the_process(body: str, error: str) -> None:
    if body.startswith("copy"):
        body += " commit_copies(); await_copies<0>();"
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED.format(body=body)],
        cwd=Path(__file__).parents[3],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "launched 63\n"
    assert done.returncode != 0
    assert "kernel.cu:1" in done.stderr
    assert re.search(error, done.stderr, re.DOTALL)
