"""What can be told of the Triton backend without running a kernel."""

from __future__ import annotations

import subprocess
import sys
from math import ceil, prod

import pytest

from bilevel import BackendRefused, Grid, registry
from bilevel.protocol import Problem
from bilevel_triton.tiles import (
    LARGEST_GROUP,
    MOST_REGIONS,
    NUMBERS,
    ROWS,
    SMALL,
    STEP,
    Side,
    mean_tile,
    score_tile,
    side,
    tiles,
)
from frameworks import load_or_skip

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
def test_what_it_does_not_take_is_torch_s(change: dict[str, object], takes: str) -> None:
    load_or_skip("triton")
    problem = CUDA._replace(**change)
    assert registry.choose(problem).name == "torch"
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


SIDES = [
    side(Grid((56, 56), 7)),
    side(Grid((28, 28), 7)),
    side(Grid((14, 14), 7)),
    side(Grid((50, 61), 7)),
    side(Grid((7, 7), 7)),
    side(Grid((300,), 1)),
    side(Grid((9, 10, 11), (2, 3, 4))),
    side(Grid((2, 3), 1)),
]


@pytest.mark.parametrize("channels", [8, 32, 64, 128])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("results", [1, 2])
@pytest.mark.parametrize("kept", SIDES)
@pytest.mark.parametrize("walked", SIDES)
def test_tiles_hold_what_they_should(
    kept: Side, walked: Side, results: int, itemsize: int, channels: int
) -> None:
    for routes in (1, 2.5, walked.regions):
        found = tiles(kept, walked, routes, channels, itemsize, results)
        lanes = (found.kept_lanes, found.walked_lanes)
        assert all(16 <= n <= 128 and n & (n - 1) == 0 for n in lanes)
        assert found.warps in (1, 2, 4, 8)
        assert found.group * found.per >= 1
        assert found.whole == (walked.tokens <= found.walked_lanes)
        if found.whole:
            assert found.per * walked.tokens <= found.walked_lanes
        if found.group > 1:
            assert kept.tokens <= SMALL
            assert found.group <= LARGEST_GROUP
            assert found.group * kept.tokens <= found.kept_lanes
            assert found.count(kept) == ceil(kept.regions / found.group)
        else:
            assert found.count(kept) * found.kept_lanes >= kept.regions * kept.tokens


def test_regions_that_share_most_of_their_routes_share_a_tile() -> None:
    stage3 = side(Grid((14, 14), 7))
    assert tiles(stage3, stage3, 16, 32, 2).group > 16
    sparse = side(Grid((64, 64), 32))
    assert tiles(sparse, sparse, 1, 32, 2).group == 4


@pytest.mark.parametrize("channels", [1, 20, 32, 256, 2048])
@pytest.mark.parametrize("keys", SIDES)
@pytest.mark.parametrize("queries", SIDES)
def test_tiles_of_means_hold_what_they_should(queries: Side, keys: Side, channels: int) -> None:
    found = mean_tile(queries, keys, channels)
    assert all(n & (n - 1) == 0 for n in found)
    assert 256 <= prod(found) <= NUMBERS
    assert found.group == 1 or found.lanes >= max(queries.tokens, keys.tokens)
    assert found.block >= min(channels, 32)  # a sector of memory, whole
    assert found.warps in (1, 2, 4, 8)


@pytest.mark.parametrize("k_regions", [1, 16, 49, 64, 65, 256, 400, MOST_REGIONS])
def test_tiles_of_scores_hold_all_key_regions(k_regions: int) -> None:
    found = score_tile(k_regions)
    assert found is not None
    assert all(n & (n - 1) == 0 for n in found)
    assert k_regions <= found.columns < 2 * max(k_regions, 16)
    assert found.rows <= ROWS
    assert found.rows * found.columns <= NUMBERS
    assert 16 <= found.step <= STEP
    assert found.warps in (1, 2, 4, 8)


def test_more_key_regions_fit_no_tile() -> None:
    assert score_tile(MOST_REGIONS + 1) is None
