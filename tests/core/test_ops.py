"""The operator on inputs small enough to work out by hand."""

from __future__ import annotations

from types import ModuleType
from typing import Any, assert_type

import numpy as np
import pytest

import bilevel
from bilevel import Backend, Grid
from bilevel.testing.arrays import from_numpy, home_of, to_numpy
from bilevel.testing.bra import spread_over_tokens


def column(*values: float) -> np.ndarray:
    """One image of tokens in a row, one head, one channel."""
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def test_one_route_attends_to_the_best_region_alone() -> None:
    k = column(1, 1, 0, 0, -1, -1)
    v = column(10, 20, 30, 40, 50, 60)
    q = column(1, 1, 1, -1, -1, -1)  # means 1, 0 and -1
    out, routes = bilevel.bra(q, k, v, topk=1, regions=3, return_routes=True)
    assert routes.index.ravel().tolist() == [0, 0, 2]  # all scores of the second are 0: the lowest
    assert routes.score.ravel().tolist() == [1, 0, 1]
    # Both keys of a region are alike, so each output is the mean of the region's values.
    assert out.ravel().tolist() == [15, 15, 15, 15, 55, 55]


def test_softmax_by_hand() -> None:
    q, k, v = column(1.0), column(0.0, np.log(3.0)), column(0.0, 4.0)
    out = bilevel.bra(q, k, v, topk=1, regions=1)
    assert out.item() == pytest.approx(3.0, rel=1e-6)  # weights 1/4 and 3/4
    out = bilevel.bra(q, k, v, topk=1, regions=1, scale=0.0)
    assert out.item() == 2.0
    attended = bilevel.attend(*(x[:, None] for x in (q, k, v)))
    assert attended.lse.item() == pytest.approx(np.log(4.0), rel=1e-6)


def test_ragged_regions_by_hand() -> None:
    grid = Grid((5,), 2)  # tokens 0 and 1, and tokens 2, 3 and 4
    x = column(1, 2, 3, 4, 5)
    regions = bilevel.partition(x, grid)
    assert regions[0, :, :, 0, 0].tolist() == [[1, 2, 0], [3, 4, 5]]
    assert bilevel.summarize(x, grid).ravel().tolist() == [1.5, 4]
    mask = bilevel.key_mask(np.array([[[1, 0]]]), grid)
    assert mask.ravel().tolist() == [True, True, True, True, True, False]
    assert bilevel.merge(regions, grid).ravel().tolist() == [1, 2, 3, 4, 5]


def test_two_axes_are_row_major() -> None:
    x = np.arange(16.0).reshape(1, 4, 4, 1, 1)
    regions = bilevel.partition(x, Grid((4, 4), 2))[0, :, :, 0, 0]
    assert regions.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_routing_sums_over_all_heads_and_is_not_scaled() -> None:
    q = np.array([2.0, 3.0], np.float32).reshape(1, 1, 2, 1)  # one token, two heads
    k = np.array([5.0, 7.0], np.float32).reshape(1, 1, 2, 1)
    _, routes = bilevel.bra(q, k, k, topk=1, regions=1, scale=0.1, return_routes=True)
    assert routes.score.item() == 2 * 5 + 3 * 7


def test_nan_in_a_token_warns_of_nothing_and_stays_where_it_is() -> None:
    """Warnings are errors in these tests."""
    q = column(1, 1, -1, -1)
    k = column(1, np.nan, -1, -1)  # the first region's mean is NaN: it comes last
    out, routes = bilevel.bra(q, k, q, topk=1, regions=2, return_routes=True)
    assert routes.index.ravel().tolist() == [1, 1]
    assert out.ravel().tolist() == [-1, -1, -1, -1]
    assert np.isnan(bilevel.bra(q, k, q, topk=2, regions=2)).all()


def test_torch_keeps_the_graph_and_the_mode(torch: ModuleType) -> None:
    x = torch.ones(1, 4, 2, 3, requires_grad=True)
    assert bilevel.bra(x, x, x, topk=1, regions=2).requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not bilevel.bra(x, x, x, topk=1, regions=2).requires_grad


def test_autocast_does_not_lower_the_precision_of_torch(torch: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 8, 8, 2, 16, generator=generator)
    expected, routes = bilevel.bra(q, k, v, regions=4, return_routes=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, cast = bilevel.bra(q, k, v, regions=4, return_routes=True)
    assert torch.equal(out, expected)
    assert torch.equal(cast.score, routes.score)


def test_masked_nan_spoils_no_gradient(torch: ModuleType) -> None:
    q, k, v = torch.ones(3, 1, 1, 2, 1, 4).unbind()
    k, v = (torch.cat([x, x * torch.nan], 2) for x in (k, v))
    mask = torch.tensor([[[True, True, False, False]]])
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = bilevel.attend(*leaves, mask=mask).out
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("backend", ["numpy", "torch"], indirect=True)
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_what_is_not_finite_reaches_only_what_attends_to_it(
    backend: Backend, where: str, size: tuple[int, int]
) -> None:
    for value in (np.nan, np.inf, -np.inf):
        it_reaches_only_what_attends_to_it(backend, where, value, size)


def it_reaches_only_what_attends_to_it(
    backend: Backend, where: str, value: float, size: tuple[int, int]
) -> None:
    """Whatever routes are found, they are in range and distinct."""
    how: dict[str, Any] = {"regions": 4, "topk": 3, "backend": backend}
    numbers = np.random.default_rng(0).standard_normal((3, 2, *size, 2, 4))
    clean = dict(zip("qkv", numbers, strict=True))
    spoiled = {**clean, where: clean[where].copy()}
    spoiled[where][0, 0, 0] = value  # of the first region of the first image
    home = home_of(backend)
    out, routes = bilevel.bra(
        **{name: from_numpy(x, home) for name, x in spoiled.items()}, **how, return_routes=True
    )
    index = to_numpy(routes.index)
    assert index.min() >= 0
    assert index.max() < 16
    assert (np.diff(np.sort(index), axis=-1) > 0).all()
    reached = spread_over_tokens((index == 0).any(-1), Grid(size, 4))
    reached[1] = False
    if where == "q":
        reached[:] = False
        reached[0, 0, 0] = True
    expected = bilevel.bra(
        **{name: from_numpy(x, home) for name, x in clean.items()}, **how, routes=routes.index
    )
    np.testing.assert_allclose(to_numpy(out)[~reached], to_numpy(expected)[~reached], rtol=1e-12)
    if np.isnan(value):
        assert np.isnan(to_numpy(out)[reached]).all()


def test_types_of_arrays_are_those_of_the_arguments(torch: ModuleType) -> None:
    """What mypy checks: a tensor in, a tensor out, with its routes where they are asked for."""
    from torch import Tensor

    x: Tensor = torch.ones(1, 4, 2, 3)
    out = bilevel.bra(x, x, x, topk=1, regions=2)
    assert_type(out, Tensor)
    both = bilevel.bra(x, x, x, topk=1, regions=2, return_routes=True)
    assert_type(both, tuple[Tensor, bilevel.Routes])
    assert_type(bilevel.partition(x, Grid((4,), 2)), Tensor)
    assert torch.equal(out, both[0])
