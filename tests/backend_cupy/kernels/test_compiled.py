"""All CUDA kernels that the rule may choose compile for GPUs, and hardly spill registers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

if "BILEVEL_COMPILE_KERNELS" not in os.environ:
    pytest.skip("kernels are compiled by: nox -s kernels", allow_module_level=True)

from bilevel.grid import Grid
from bilevel_cupy import forward_backward, kernels
from bilevel_cupy.block_lists import token_tables
from bilevel_cupy.call import Call
from tests.backend_cupy.kernels import nvrtc

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
CHANNELS = [16, 32, 64, 128]

ASIDE = 16
"""Bytes that the assembler puts into local memory where that lets one more block run beside the
others: kernels with registers to spare have them too, and which ones, changes with its version."""


class Launched(NamedTuple):
    kernel: str
    threads: int
    shared: int


class Recorder:
    """NumPy, and of CuPy what launches kernels: it only takes down what is launched."""

    def __init__(self) -> None:
        self.launched: set[Launched] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def RawModule(self, *, name_expressions: tuple[str], **_: Any) -> Any:  # noqa: N802
        recorder, (name,) = self, name_expressions

        class Kernel:
            max_dynamic_shared_size_bytes = 48 << 10

            def __call__(
                self, grid: Any, block: tuple[int], arguments: Any, shared_mem: int = 0
            ) -> None:
                assert shared_mem <= self.max_dynamic_shared_size_bytes
                recorder.launched.add(Launched(name, block[0], shared_mem))

        class Module:
            def get_function(self, _: str) -> Kernel:
                return Kernel()

        return Module()


def launched(spatial: tuple[int, ...], regions: int, topk: int, channels: int, dtype: Any) -> Any:
    """What both passes launch, on memory that nothing reads or writes."""
    xp, grid = Recorder(), Grid(spatial, (regions,) * len(spatial))
    x = np.empty((1, *spatial, 1, channels), dtype)
    index = np.empty((1, grid.num_regions, topk), np.int32)
    call = Call(x, x, x, index, grid, grid, 1.0)
    tables = token_tables(xp, call)
    out, lse = forward_backward.forward(xp, call, tables)
    forward_backward.backward(xp, call, tables, out, lse, x)
    return xp.launched


def all_launched(dtype: Any, channels: int) -> Iterator[Launched]:
    """By calls with few and with many tokens in a region, and with short and long block lists."""
    sizes = ((7, 7), (14, 14), (28, 28), (56, 56), (112, 112), (50, 61), (13, 15), (1,), (900,))
    for spatial in sizes:
        for regions in (1, 7):
            if regions > min(spatial):
                continue
            for topk in {1, 4, regions ** len(spatial)}:
                if topk <= regions ** len(spatial):
                    yield from launched(spatial, regions, topk, channels, dtype)


@pytest.mark.parametrize("capability", nvrtc.SHARED_MEMORY)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_kernels_fit(dtype: Any, channels: int, capability: int) -> None:
    launches = set(all_launched(dtype, channels))
    names = sorted({each.kernel for each in launches})
    found = nvrtc.compiled(kernels.text(), names, capability)
    for name, threads, shared in launches:
        kernel = found[name]
        assert kernel.stack <= ASIDE, f"spills: {kernel._replace(sass='')}"
        assert threads <= (kernel.threads or 1024), name
        assert threads * kernel.registers <= nvrtc.REGISTERS, name
        assert shared + kernel.shared <= nvrtc.SHARED_MEMORY[capability], name
        if name.startswith(("forward", "backward")):
            of_tensor_cores = "HMMA" in kernel.sass and "LDSM" in kernel.sass
            assert of_tensor_cores == (np.dtype(dtype).itemsize == 2), name
            assert "LDGSTS" in kernel.sass, name  # copies that nothing waits for


def test_calls_cover_the_rule() -> None:
    rows = {
        (np.dtype(dtype).itemsize, int(name.rpartition(" ")[2].rstrip(">")))
        for dtype in DTYPES
        for channels in CHANNELS
        for name, *_ in all_launched(dtype, channels)
        if name.startswith("forward")
    }
    assert rows == {(2, 32), (2, 64), (4, 16), (4, 32), (8, 8)}
