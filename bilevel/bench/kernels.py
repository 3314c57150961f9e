"""Where the time of a step on a CPU goes, by kind of kernel, as torch's profiler sees it."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from bilevel.bench.contest import Step

CALLS = 3
"""Calls that times are means of."""

KINDS = {
    "linear layers": ("addmm", "mm"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "baddbmm",
        "bmm",
        "_softmax",
        "_softmax_backward_data",
    ),
    "convolutions": ("mkldnn_convolution", "convolution_backward"),
    "GELU and norms": (
        "gelu",
        "gelu_backward",
        "native_layer_norm",
        "native_layer_norm_backward",
        "native_batch_norm",
        "native_batch_norm_backward",
    ),
}
"""The kernels of each kind, by torch's names. Linear layers write their bias before they multiply,
as a copy, which is not among them."""

REST = "the rest"
"""Copies, sums, additions, gathers, sorting, and what Python and torch take to call all of it."""


def milliseconds_by_kind(step: Step) -> dict[str, float]:
    """Milliseconds of one step in kernels of each kind, without gaps between them."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(CALLS):
            step()
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    times = dict.fromkeys((*KINDS, REST), 0.0)
    for event in found.key_averages():
        times[kind_of.get(event.key, REST)] += event.self_cpu_time_total / 1e3 / CALLS
    return {kind: float(f"{ms:.5g}") for kind, ms in times.items()}
