"""The roofline of a GPU: the least time that attention to routed regions can take there."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bilevel.bench.comparison import compare
from bilevel.bench.shapes import Shape

EXPONENTIALS = 16
"""Exponentials of a multiprocessor in a clock (CUDA C++ Programming Guide, table of arithmetic
throughput)."""

MATRIX_FLOPS = {(8, 0): 2048, (9, 0): 4096}
"""Floating-point operations of a multiprocessor's tensor cores in a clock, by compute capability:
dense bfloat16 products with float32 sums. For other GPUs the figure is not known, and the floor
leaves out this bound."""


class Gpu(NamedTuple):
    """What bounds the speed of a GPU."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: int
    """The highest clock of the multiprocessors."""
    memory_bytes_per_s: int
    """Two transfers of the memory's width in a clock."""
    l2_bytes: int


def this_gpu() -> Gpu:
    """The current CUDA device.

    Its clocks are those that Triton asks the driver for: not every version of torch has them.
    """
    from triton.runtime import driver

    index = torch.cuda.current_device()
    known = torch.cuda.get_device_properties(index)
    rates: dict[str, int] = driver.active.utils.get_device_properties(index)
    return Gpu(
        name=known.name,
        capability=(known.major, known.minor),
        multiprocessors=known.multi_processor_count,
        clock_hz=1000 * rates["sm_clock_rate"],
        memory_bytes_per_s=2 * 1000 * rates["mem_clock_rate"] * rates["mem_bus_width"] // 8,
        l2_bytes=known.L2_cache_size,
    )


def floors(gpu: Gpu, shape: Shape) -> dict[str, float]:
    """The least milliseconds of the forward pass, and of forward and backward, given the routes.

    For each pass it is the largest of three times: bytes over the memory's rate, exponentials of
    the softmax and floating-point operations of the matrix products over the rates of all
    multiprocessors. Forward moves q, k, v and out once, and computes two products and one
    exponential for each score. Backward moves these and their gradients. It computes the scores
    twice, because without atomics the gradient of q needs a pass apart from those of k and v: seven
    products and two exponentials.
    """
    forward = _seconds(gpu, shape, maps=4, products=2, exponentials=1)
    backward = _seconds(gpu, shape, maps=8, products=7, exponentials=2)
    return {"forward": 1e3 * forward, "forward_backward": 1e3 * (forward + backward)}


def _seconds(gpu: Gpu, shape: Shape, maps: int, products: int, exponentials: int) -> float:
    clocks = gpu.multiprocessors * gpu.clock_hz
    scores = shape.queries * shape.keys_per_query
    moved = maps * shape.queries * shape.head_dim * shape.itemsize
    bounds = [
        moved / gpu.memory_bytes_per_s,
        exponentials * scores / (EXPONENTIALS * clocks),
    ]
    if gpu.capability in MATRIX_FLOPS and shape.itemsize == 2:
        flops = products * 2 * scores * shape.head_dim
        bounds.append(flops / (MATRIX_FLOPS[gpu.capability] * clocks))
    return max(bounds)


def reached(device: str, elements: int = 2**30, size: int = 8192) -> dict[str, float]:
    """Rates that the device reaches now, per second.

    Bytes that a copy reads and writes, and floating-point operations of a product of two square
    bfloat16 matrices.
    """
    source = torch.randn(elements, device=device, dtype=torch.bfloat16)
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    work = {"copied_bytes_per_s": 2 * 2 * elements, "bfloat16_flops_per_s": 2 * size**3}
    times = compare(
        {
            "copied_bytes_per_s": lambda: [lambda: (source.clone(),)],
            "bfloat16_flops_per_s": lambda: [lambda: (a @ b,)],
        },
        rounds=9,
        device=device,
    ).milliseconds
    return {name: 1e3 * work[name] / ms for name, ms in times.items()}
