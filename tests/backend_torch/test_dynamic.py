"""Compiled and exported for any size: one graph for all maps, and no size bound silently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim

import bilevel
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention
from tests.frameworks import WHOLE_GRAPHS

# Compilers warn of their own dependencies, which is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore")

# First what is traced; then sizes that regions divide, and do not. (As many tokens as regions are
# another graph: torch specializes lengths of one, here of a region.)
SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(10,), (9,), (14,)],
    2: [(10, 7), (9, 12), (14, 5)],
    3: [(5, 4, 7), (6, 8, 9), (4, 7, 5)],
}


def layer(axes: int, channels_first: bool = False) -> BiLevelRoutingAttention:
    torch.manual_seed(0)
    return BiLevelRoutingAttention(
        8, 2, regions=3, topk=2, lce_kernel=3, channels_first=channels_first, spatial_dims=axes
    ).eval()


def tokens(batch: int, spatial: tuple[int, ...], channels_first: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(batch + sum(spatial))
    shape = (8, *spatial) if channels_first else (*spatial, 8)
    return torch.randn(batch, *shape, generator=generator)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    torch._dynamo.reset()


@WHOLE_GRAPHS
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("axes", SIZES)
def test_one_graph_serves_all_sizes(axes: int, channels_first: bool) -> None:
    module = layer(axes, channels_first)
    # What follows Dynamo has no view of the axes: two tell enough, in much less time.
    backend = "aot_eager" if axes == 2 else "eager"
    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend=backend)
    first, *others = SIZES[axes]
    with torch.no_grad():
        compiled(tokens(2, first, channels_first))
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch, spatial in enumerate([first, *others], start=2):
                x = tokens(batch, spatial, channels_first)
                torch.testing.assert_close(compiled(x), module(x))


@WHOLE_GRAPHS
def test_one_graph_serves_all_sizes_in_training() -> None:
    module = layer(2).train()
    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend="aot_eager")
    for batch, spatial in enumerate(SIZES[2][:3], start=2):
        x = tokens(batch, spatial).requires_grad_()
        with torch.compiler.set_stance("default" if batch == 2 else "fail_on_recompile"):
            (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
        (want,) = torch.autograd.grad(module(x).square().sum(), x)
        torch.testing.assert_close(got, want)


@WHOLE_GRAPHS
@pytest.mark.parametrize("axes", SIZES)
def test_export_with_any_size(axes: int) -> None:
    module = layer(axes)
    sizes = {axis: Dim(f"axis{axis}", min=4, max=64) for axis in range(1, axes + 1)}
    batch = Dim("N", min=1, max=8)
    first, *others = SIZES[axes]
    program = torch.export.export(
        module, (tokens(2, first),), dynamic_shapes=({0: batch, **sizes},)
    )
    for number, spatial in enumerate(others, start=3):
        x = tokens(number, spatial)
        torch.testing.assert_close(program.module()(x), module(x))


FREE: dict[str, dict[int, Any]] = {
    "biformer": {0: Dim("N", min=1, max=9), **{i: Dim(f"axis{i}", min=20) for i in (2, 3)}},
    # Of quotients without a remainder torch proves nothing within bounds: but for multiples of the
    # patches, only for sizes without a name.
    "stl": dict.fromkeys((0, 2, 3), Dim.DYNAMIC),
    "stl by patches": {0: Dim("N", min=1), **{i: 4 * Dim(f"axis{i}", min=5) for i in (2, 3)}},
}


@WHOLE_GRAPHS
@pytest.mark.parametrize("what", FREE)
def test_export_of_a_model_with_any_size(what: str) -> None:
    """Sizes of its maps are quotients, of which torch knows little."""
    torch.manual_seed(0)
    config = BiFormerConfig(
        depths=(1,), embed_dims=(16,), topk=(1,), regions=2, head_dim=8, num_classes=3,
        layout="stl" if "stl" in what else "biformer",
    )  # fmt: skip
    model = BiFormer(config).eval()
    example = (torch.randn(2, 3, 40, 48),)
    program = torch.export.export(model, example, dynamic_shapes=(FREE[what],))
    for size in ((3, 3, 36, 56), (1, 3, 96, 44)) + ((1, 3, 33, 58),) * (what != "stl by patches"):
        images = torch.randn(size)
        torch.testing.assert_close(program.module()(images), model(images))


@WHOLE_GRAPHS
def test_export_of_fewer_tokens_than_regions_binds_no_size_silently() -> None:
    sizes = {1: Dim("H", min=2, max=64), 2: Dim("W", min=2, max=64)}
    with pytest.raises(Exception, match=r"specialized|violated"):
        torch.export.export(layer(2), (tokens(2, (2, 2)),), dynamic_shapes=(sizes,))


@WHOLE_GRAPHS
def test_one_graph_of_a_model_serves_all_images() -> None:
    torch.manual_seed(0)
    config = BiFormerConfig(
        embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), topk=(1, 2, 4, None), regions=2,
        head_dim=8, num_classes=3,
    )  # fmt: skip
    model = BiFormer(config).eval()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad():
        compiled(torch.randn(2, 3, 96, 160))
        with torch.compiler.set_stance("fail_on_recompile"):
            for height, width in ((96, 160), (130, 101), (224, 99)):
                images = torch.randn(3, 3, height, width)
                torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("channels_first", [False, True])
def test_compile_may_break_graphs(channels_first: bool, dynamic: bool | None) -> None:
    """Which is how versions of torch that trace no whole graph compile the layer."""
    module, x = layer(2, channels_first), tokens(2, (10, 8), channels_first)
    compiled = torch.compile(module, dynamic=dynamic, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_a_trace_reads_no_values() -> None:
    """Of finite keys, or of few images, nothing is kept for other ones."""
    x = torch.randn(2, 14, 14, 2, 4)

    def attend(q: Tensor) -> Tensor:
        out: Tensor = bilevel.bra(q, q, q, regions=7, topk=16)
        return out

    traced = torch.jit.trace(attend, x, check_trace=False)
    x[0, 0, 0] = torch.nan
    torch.testing.assert_close(traced(x), attend(x), equal_nan=True)
