"""The Triton kernels route as torch does in float64, and touch no memory beside their arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are interpreted by: TRITON_INTERPRET=1 pytest", allow_module_level=True)

import torch
import triton
import triton.language as tl
from torch import Tensor

from bilevel import Grid
from bilevel.protocol import Routes
from bilevel_torch.backend import BACKEND as TORCH
from bilevel_triton import routing
from bilevel_triton.custom_ops import route_regions
from bilevel_triton.kernels.routing import ranks_of, region_of, score_of
from bilevel_triton.tiles import MAX_KEY_REGIONS, MAX_ROUTES, score_tile
from tests.backend_triton.kernels.margins import Margins, amid_nan

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

VALUES = [-torch.inf, torch.inf, torch.nan, 0.0, -0.0, 2.0**-149, -(2.0**-149), 1.0, -1.5, 7.25]

SHAPES = [
    pytest.param(Grid((9, 9), 2), Grid((9, 9), 2), 2, id="ragged"),
    pytest.param(Grid((7, 5), (7, 5)), Grid((7, 5), (7, 5)), 35, id="one token in each region"),
    pytest.param(Grid((7, 9), (3, 4)), Grid((7, 9), (3, 4)), 5, id="small ragged regions"),
    pytest.param(Grid((300,), 2), Grid((5,), 1), 1, id="regions read in steps, one of keys"),
    pytest.param(Grid((3, 4, 5), 2), Grid((3, 4, 5), 2), 8, id="three axes"),
    pytest.param(Grid((29,), 1), Grid((6, 7), (2, 3)), 4, id="other keys"),
    pytest.param(Grid((20,), 20), Grid((70,), 70), MAX_ROUTES, id="most routes"),
    pytest.param(Grid((3,), 3), Grid((70,), 70), MAX_ROUTES + 1, id="more routes"),
    pytest.param(Grid((9,), 9), Grid((1024,), MAX_KEY_REGIONS), 3, id="most key regions"),
    pytest.param(Grid((3,), 3), Grid((1025,), MAX_KEY_REGIONS + 1), 3, id="more key regions"),
]


def tokens(grid: Grid, heads: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two images."""
    torch.manual_seed(len(grid.spatial) + grid.num_regions)
    return torch.randn(2, *grid.spatial, heads, channels).to(dtype)


def assert_routed(
    found: Routes | tuple[Tensor, ...], q: Tensor, k: Tensor, q_grid: Grid, k_grid: Grid
) -> None:
    """Distinct regions with the highest scores, best first."""
    index, score = found
    assert score is not None
    assert (index.dtype, score.dtype) == (torch.int64, torch.float32)
    assert (index.sort(-1).values.diff(dim=-1) > 0).all()
    q_mean, k_mean = TORCH.summarize(q.double(), q_grid), TORCH.summarize(k.double(), k_grid)
    exact = q_mean @ k_mean.mT
    best = exact.sort(-1, descending=True).values[..., : index.shape[-1]]
    torch.testing.assert_close(exact.gather(-1, index), best, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score.double(), best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "channels", "dtype"),
    [(1, 16, torch.float32), (3, 5, torch.float16), (5, 8, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize(("q_grid", "k_grid", "topk"), SHAPES)
def test_routes_are_the_best(
    q_grid: Grid,
    k_grid: Grid,
    topk: int,
    heads: int,
    channels: int,
    dtype: torch.dtype,
    margins: Margins,
) -> None:
    q, k = tokens(q_grid, heads, channels, dtype), tokens(k_grid, heads, channels, dtype)
    held = amid_nan(q), amid_nan(k)
    with margins.unread(*held):
        found = routing.find_routes(*held, q_grid, k_grid, topk)
    margins.assert_untouched()
    assert_routed(found, q, k, q_grid, k_grid)


@pytest.mark.parametrize("k_regions", [1, 16, 17, 50])
def test_ties_go_to_the_lower_region_and_nan_comes_last(k_regions: int, margins: Margins) -> None:
    torch.manual_seed(k_regions)
    values = torch.tensor(VALUES)
    q_mean, k_mean = torch.zeros(2, 19, 32), torch.zeros(2, k_regions, 32)
    q_mean[..., 0] = 1  # other channels add zeros
    k_mean[..., 0] = values[torch.randint(len(values), (2, k_regions))]
    tile = score_tile(k_regions)
    assert tile is not None
    for topk in {1, k_regions}:
        index, score = routing.best_regions(q_mean, k_mean, topk, tile)
        want_index, want_score = TORCH.route(q_mean, k_mean, topk)
        assert want_score is not None
        assert torch.equal(index, want_index)
        assert torch.equal(score, want_score)
    margins.assert_untouched()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def rank_all(rank: Any, region: Any, score: Any, scores: Any, COUNT: tl.constexpr) -> None:
    regions = tl.arange(0, COUNT)
    ranks = ranks_of(tl.load(scores + regions), regions, COUNT - 1)  # the last is no region
    tl.store(rank + regions, ranks)
    tl.store(region + regions, region_of(ranks))
    tl.store(score + regions, score_of(ranks))


def test_ranks_are_in_the_order_of_routing() -> None:
    torch.manual_seed(0)
    scores = torch.tensor(VALUES)[torch.randint(len(VALUES), (64,))]
    rank, region, score = torch.empty(64, dtype=torch.int64), *torch.empty(2, 64)
    rank_all[(1,)](rank, region, score, scores, 64)
    lowest = scores[:-1].masked_fill(scores[:-1].isnan(), -torch.inf)
    best_first = lowest.sort(descending=True, stable=True).indices
    assert torch.equal(rank[:-1].argsort(descending=True), best_first)
    assert rank[-1] < rank[:-1].min()
    assert torch.equal(region[:-1], torch.arange(63.0))
    assert torch.equal(score[:-1], lowest)


def test_regions_with_nan_are_chosen_last() -> None:
    grid = Grid((9, 7), (3, 2))
    q, k = tokens(grid, 2, 8), tokens(grid, 2, 8)
    clean, _ = route_regions(q, k, grid.regions, grid.regions, 6)
    q[1, 0, 0, 0, 0] = torch.nan  # of the first region
    k[0, 4, 5, 1, 3] = torch.nan  # of the fourth
    index, score = route_regions(q, k, grid.regions, grid.regions, 6)
    others = clean[0][clean[0] != 3].view(6, 5)
    assert torch.equal(index[0], torch.cat((others, torch.full((6, 1), 3)), dim=-1))
    assert (score[0, :, -1] == -torch.inf).all()
    assert index[1, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(index[1, 1:], clean[1, 1:])


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x, id="as they are"),
        pytest.param(lambda x: torch.stack((x, x), -3).unbind(-3)[1], id="heads together"),
        pytest.param(lambda x: torch.cat((x, x), -1).chunk(2, -1)[1], id="heads apart"),
        pytest.param(lambda x: x.movedim(-2, 1).contiguous().movedim(1, -2), id="heads first"),
        pytest.param(lambda x: x.movedim(-1, 1).contiguous().movedim(1, -1), id="channels first"),
        pytest.param(lambda x: torch.cat((x, x), 2)[:, :, : x.shape[2]], id="a crop"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1, -1, -1), id="one image twice"),
    ],
)
def test_tokens_are_read_where_they_are(view: Callable[[Tensor], Tensor]) -> None:
    grid = Grid((9, 7), (3, 2))
    q, k = view(tokens(grid, 2, 8)), view(tokens(grid, 2, 8).neg())
    found = route_regions(q, k, grid.regions, grid.regions, 4)
    assert_routed(found, q, k, grid, grid)


def test_no_image_has_no_routes() -> None:
    q = torch.zeros(0, 4, 4, 1, 8)
    index, score = route_regions(q, q, (2, 2), (2, 2), 3)
    assert index.shape == score.shape == (0, 4, 3)
