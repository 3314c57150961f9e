"""The floors of a GPU follow from its data."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from bilevel.bench import roofline
from bilevel.bench.shapes import SHAPES
from tests.bench.stand_ins import H200
from tests.frameworks import load_or_skip


@pytest.mark.parametrize(
    ("name", "forward_us", "backward_us"),
    [
        ("224, stage 1", 42.8, 86),
        ("224, stage 2", 21.4, 43),
        ("224, stage 3", 10.7, 21),
        ("512, stage 1", 34.7, 69),
        ("1024, stage 1", 17, 35),
        ("1024, stage 2", 8.7, 17),
        ("1024, stage 3", 4.3, 8.7),
        ("1024, four routes", 34.7, 69),
    ],
)
def test_floors_of_an_h200(name: str, forward_us: float, backward_us: float) -> None:
    found = roofline.floors(H200, SHAPES["cuda"][name])
    assert found["forward"] * 1e3 == pytest.approx(forward_us, rel=0.03)
    both = forward_us + backward_us
    assert found["forward_backward"] * 1e3 == pytest.approx(both, rel=0.03)


def test_the_data_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_skip("triton")
    runtime = import_module("triton.runtime")
    rates = {"sm_clock_rate": 1_980_000, "mem_clock_rate": 3_201_000, "mem_bus_width": 6144}
    utils = SimpleNamespace(get_device_properties=lambda index: rates)
    active = SimpleNamespace(active=SimpleNamespace(utils=utils))
    monkeypatch.setattr(runtime, "driver", active)
    of_torch = SimpleNamespace(
        name="GPU", major=9, minor=0, multi_processor_count=132, L2_cache_size=2**20
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: of_torch)
    found = roofline.this_gpu()
    assert found == ("GPU", (9, 0), 132, 1_980_000_000, 4_916_736_000_000, 2**20)


def test_reached_rates() -> None:
    found = roofline.reached("cpu", elements=64, size=4)
    assert found.keys() == {"copied_bytes_per_s", "bfloat16_flops_per_s"}
    assert min(found.values()) > 0
