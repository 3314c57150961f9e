"""The counts of a launch follow from its code, its loops' passes, and the shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bilevel.bench.counts import kernels, sass
from bilevel.bench.counts.ahead import Compiled
from bilevel.bench.counts.work import Work, list_lengths, routed, work
from tests.bench.counts.code import CODE

META = SimpleNamespace(
    regions=((1, 7, 7), (1, 7, 7)),
    group_size=1,
    stationary_rows=32,
    regions_per_step=1,
    streamed_rows=16,
    head_dim=32,
)
SHAPE = SimpleNamespace(spatial=((1, 56, 56), (1, 56, 56)), topk=4, heads=2)


def arguments(**meta: Any) -> dict[str, Any]:
    """Those of a kernel for attention."""
    q = torch.empty(3, 56, 56, 2, 32, dtype=torch.bfloat16, device="meta")
    changed = SimpleNamespace(**{**vars(META), **meta})
    return {"META": changed, "shape": SHAPE, "q": SimpleNamespace(ptr=q)}


def test_passes_multiply_by_depth() -> None:
    code = sass.instructions(CODE)
    found = sass.loops(code)
    done = Work(outer=(3.0, 5.0), inner=(2.0,), straight=0.5)
    per_warp = kernels.per_warp(code, found, done)
    # Four and three outside; three of seven in the outer loop alone.
    assert sum(per_warp.values()) == 0.5 * 7 + 3 * 3 + 3 * 2 * 4 + 5 * 2
    assert per_warp["special"] == kernels.exponentials(code, found, done) == 6
    assert per_warp["matrix"] == 3
    assert kernels.before_exit(code) == 4


def test_instructions_are_apart_before_in_and_after_the_loop() -> None:
    code = sass.instructions(CODE)
    parts = kernels.around(sass.main_loop(sass.loops(code)), code)
    assert {name: sum(part.values()) for name, part in parts.items()} == {
        "before": 4,
        "in": 7,
        "after": 5,
    }
    assert sum(kernels.around(None, code)["before"].values()) == len(code)


def test_regions_in_parts_are_counted_exactly() -> None:
    # 49 regions of 64 tokens, in two parts; four times 64 keys, 16 at a time.
    done = work("attend", arguments())
    assert done.outer == (16.0,)
    assert done.programs == 3 * 2 * 49 * 2
    map_bytes = 3 * 2 * 56 * 56 * 32 * 2
    lse = 3 * 2 * 56 * 56 * 4
    assert done.memory_bytes == 4 * map_bytes + lse
    assert done.l2_bytes == 2 * map_bytes + lse + 2 * 4 * 2 * map_bytes


def test_backward_moves_six_maps_twice() -> None:
    both = [work(name, arguments()) for name in ("gradient_of_queries", "gradient_of_keys")]
    map_bytes = 3 * 2 * 56 * 56 * 32 * 2
    assert [done.memory_bytes - 3 * 2 * 56 * 56 * 8 for done in both] == [6 * map_bytes] * 2
    # Each key region is chosen by four query regions on average.
    assert both[1].outer == (16.0,)


@pytest.mark.parametrize(("group_size", "topk"), [(1, 3), (4, 3), (5, 20)])
def test_lists_of_groups_are_unions(group_size: int, topk: int) -> None:
    hits = routed(18, 20, topk)
    assert (hits.sum(-1) == topk).all()
    lengths = list_lengths(hits, group_size)
    for image, of_image in enumerate(lengths):
        for group, length in enumerate(of_image):
            rows = hits[image, group * group_size : (group + 1) * group_size]
            assert length == len({int(column) for _, column in np.argwhere(rows)})


def test_regions_that_share_a_step_are_counted_in_steps() -> None:
    done = work("attend", arguments(group_size=8, regions_per_step=16))
    lengths = list_lengths(routed(49, 49, 4), 8)
    assert done.outer == (np.ceil(lengths / 16).mean(),)
    assert done.programs == 3 * 2 * 7


def compiled(**changes: Any) -> Compiled:
    launch = Compiled("attend", arguments(), 700, 4, 120, 0, 12_288, "", CODE)
    return launch._replace(**changes)


def test_times_are_counts_over_rates() -> None:
    found = kernels.counted(compiled(), "sm_90")
    executed = 4 + 5 + 16 * 7  # every loop of the code passes 16 times, but one inside
    executed += 15 * 2  # the last loop, too
    assert sum(found["executed_per_warp"].values()) == executed
    assert found["programs_with_work"] == 588
    issued = 4 * (588 * executed + 112 * 4)
    assert found["issue_us"] == round(issued / (132 * 4 * 1900), 2)
    assert found["exp_us"] == round(4 * 588 * 16 * 32 / (132 * 16 * 1900), 2)
    assert found["exps"] == 4 * 588 * 16 * 32
    assert found["memory_us"] == round(found["memory_bytes"] / 4.8e6, 2)


@pytest.mark.parametrize(
    ("changes", "programs"),
    [
        pytest.param({}, 4, id="registers"),
        pytest.param({"registers": 128}, 4, id="all registers"),
        pytest.param({"registers": 129}, 3, id="one more"),
        pytest.param({"registers": 16, "shared": 65_536}, 3, id="shared memory"),
        pytest.param({"registers": 16, "shared": 0}, 16, id="warps"),
        pytest.param({"registers": 16, "shared": 0, "warps": 1}, 32, id="programs"),
    ],
)
def test_a_multiprocessor_holds_what_fits(changes: dict[str, Any], programs: int) -> None:
    assert kernels.together(compiled(**changes), (9, 0)) == programs
