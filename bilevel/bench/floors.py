"""The least time that attention to routed regions can take on a GPU, by the GPU's own data."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bilevel.bench.contest import contest

EXPONENTIALS = 16
"""Of a multiprocessor in a clock (CUDA C++ Programming Guide, table of arithmetic throughput)."""

MATRIX_FLOPS = {(8, 0): 2048, (9, 0): 4096}
"""Of a multiprocessor in a clock, by compute capability: dense products of bfloat16, summed in
float32. Elsewhere the tensor cores' share of the floor is not known, and left out."""


class Gpu(NamedTuple):
    """What bounds the speed of a GPU."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: int
    """The highest of the multiprocessors."""
    memory_bytes_per_s: int
    """Two transfers of the memory's width in a clock."""
    l2_bytes: int


def this_gpu() -> Gpu:
    """The current CUDA device. Its clocks are those that Triton asks the driver for: they are not
    among torch's properties in all versions."""
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


class Work(NamedTuple):
    """What a call of the operator computes under given routes."""

    queries: int
    """Of all images and heads."""
    keys_each: int
    """Keys of one query."""
    head_dim: int
    itemsize: int
    """Bytes of an element."""


def floors(gpu: Gpu, work: Work) -> dict[str, float]:
    """Milliseconds of the forward pass, and of it with the backward pass.

    The largest of three, for each pass: bytes by the memory's rate, the softmax's exponentials and
    the floating-point operations of matrix products by those of all multiprocessors. There are as
    many keys as queries. Forward, q, k, v and out are moved once; there are two products, and one
    exponential a score. Backward, these and their four gradients are moved; scores are computed
    twice, for without atomics the gradient of q and those of k and v need a walk each: seven
    products and two exponentials.
    """
    forward = _seconds(gpu, work, maps=4, products=2, exponentials=1)
    backward = _seconds(gpu, work, maps=8, products=7, exponentials=2)
    return {"forward": 1e3 * forward, "forward_backward": 1e3 * (forward + backward)}


def _seconds(gpu: Gpu, work: Work, maps: int, products: int, exponentials: int) -> float:
    clocks = gpu.multiprocessors * gpu.clock_hz
    scores = work.queries * work.keys_each
    moved = maps * work.queries * work.head_dim * work.itemsize
    bounds = [
        moved / gpu.memory_bytes_per_s,
        exponentials * scores / (EXPONENTIALS * clocks),
    ]
    if gpu.capability in MATRIX_FLOPS and work.itemsize == 2:
        flops = products * 2 * scores * work.head_dim
        bounds.append(flops / (MATRIX_FLOPS[gpu.capability] * clocks))
    return max(bounds)


def reached(device: str, elements: int = 2**30, size: int = 8192) -> dict[str, float]:
    """Which rates the device reaches now: bytes per second that a copy reads and writes, and
    operations per second of a product of two square matrices of bfloat16."""
    source = torch.randn(elements, device=device, dtype=torch.bfloat16)
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    work = {"copied_bytes_per_s": 2 * 2 * elements, "bfloat16_flops_per_s": 2 * size**3}
    results = contest(
        {
            "copied_bytes_per_s": lambda: [lambda: (source.clone(),)],
            "bfloat16_flops_per_s": lambda: [lambda: (a @ b,)],
        },
        rounds=9,
        device=device,
    )
    return {name: 1e3 * work[name] / ms for name, ms in results.milliseconds.items()}
