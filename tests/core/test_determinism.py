"""The same call twice gives the same bits, forward and backward, with one thread and with more."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import bilevel


@pytest.fixture(params=[1, 2, 4])
def threads(torch: ModuleType, request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def run(torch: ModuleType, function: Any, arrays: list[Any]) -> list[Any]:
    """Output and gradients."""
    leaves = [x.clone().requires_grad_() for x in arrays]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, arrays[0])]


# Large enough that torch splits its sums and products among threads.
SHAPES = {"uniform": ((2, 56, 56, 2, 32), 7), "ragged": ((2, 50, 45, 2, 32), 7)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bra(torch: ModuleType, threads: int, shape: str, dtype: str) -> None:
    sizes, regions = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    arrays = list(torch.randn(3, *sizes, generator=generator).to(getattr(torch, dtype)))

    def bra(q: Any, k: Any, v: Any) -> Any:
        return bilevel.bra(q, k, v, regions=regions)

    first = run(torch, bra, arrays)
    for _ in range(3):
        again = run(torch, bra, arrays)
        assert all(map(torch.equal, again, first))
