"""What the Triton backend takes, told without running a kernel."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bilevel import BackendRefused, registry
from bilevel.protocol import Problem
from tests.frameworks import load_or_skip

CUDA = Problem("torch", "cuda", "float32", head_dim=32, axes=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_it_is_the_best_for_torch_on_cuda(dtype: str) -> None:
    load_or_skip("triton")
    assert registry.choose(CUDA._replace(dtype=dtype)).name == "triton"


@pytest.mark.parametrize(
    ("change", "takes"),
    [
        ({"dtype": "float64"}, "float16, bfloat16, float32 torch tensors on CUDA"),
        ({"head_dim": 129}, r"heads of at most 128 channels \(here 129\)"),
        ({"axes": 4}, r"maps of at most 3 spatial axes \(here 4\)"),
        ({"device": "cpu"}, "torch tensors on CUDA, got float32 torch arrays on cpu"),
    ],
)
def test_what_it_does_not_take_is_torch_s(change: dict[str, Any], takes: str) -> None:
    load_or_skip("triton")
    problem = CUDA._replace(**change)
    on_cpu = {"cpu", "torch"}  # the first, where there is a compiler
    assert registry.choose(problem).name in (on_cpu if problem.device == "cpu" else {"torch"})
    with pytest.raises(BackendRefused, match=f"backend 'triton' takes only .*{takes}"):
        registry.choose(problem, "triton")


def test_it_is_not_imported_for_arrays_elsewhere() -> None:
    load_or_skip("torch")
    code = """
import sys, torch, bilevel
bilevel.bra(*torch.zeros(3, 1, 7, 7, 1, 4), topk=1)
print("bilevel_triton.backend" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
