"""Where the time of a step on a CPU goes, by kind of kernel, from torch's profiler."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from bilevel.bench.comparison import Step

CALLS = 3
"""Calls over which times are averaged."""

KINDS = {
    "linear layers": ("addmm", "mm"),
    "routing and attention": (
        "route_regions_on_cpu",
        "attend_routed_on_cpu",
        "attend_routed_backward_on_cpu",
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
"""The kernels of each kind, by the names of torch's operators and of bilevel's. A linear layer
first copies its bias into the result; that copy counts as the rest."""

REST = "the rest"
"""Copies, sums, additions, gathers, sorting, and the calls themselves in Python and torch."""


def milliseconds_by_kind(step: Step) -> dict[str, float]:
    """Milliseconds of one step in kernels of each kind, without the gaps between kernels."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(CALLS):
            step()
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    times = dict.fromkeys((*KINDS, REST), 0.0)
    for event in found.key_averages():
        name = event.key.rpartition("::")[-1]
        times[kind_of.get(name, REST)] += event.self_cpu_time_total / 1e3 / CALLS
    return {kind: float(f"{ms:.5g}") for kind, ms in times.items()}
