"""The layout with each mixer: sizes, what a token attends to, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bilevel import ShapeError
from bilevel.compare import MICRO, MIXERS, WHOLE, build
from bilevel.compare.axial import AxialAttention
from bilevel.compare.mixers import Place
from bilevel.compare.quadtree_models import QuadTree
from bilevel.compare.routing import RandomRouting, full_attention
from bilevel.compare.sliding import SlidingAttention
from bilevel.errors import ArgumentError
from bilevel.models import biformer_stl
from bilevel.nn import BiLevelRoutingAttention
from tests.golden.compare.cases import documents

SIDES = (56, 28, 14, 7)
KEYS = {
    "window": (49, 49, 49, 49),
    "shifted-window": (49, 49, 49, 49),
    "sliding": (49, 49, 49, 49),
    "axial": SIDES,
    "criss-cross": (111, 55, 27, 13),
    "cross-shaped": (111, 108, 147, 49),  # both halves of the heads together
    "block-grid": (49, 49, 49, 49),
}
"""Tokens that a token attends to, by stage; no convolution reaches further."""


def place(stage: int, block: int, side: int | None = None) -> Place:
    side = side or SIDES[stage]
    return Place(32, 2, stage, block, (side, side))


def layer_at(mixer: str, at: Place) -> nn.Module:
    layer = MIXERS[mixer].attention(at)
    assert layer is not None
    return layer.double()


def seen(layer: nn.Module, side: int, row: int, column: int) -> Tensor:
    """Which tokens of a map an output depends on: booleans ``(side, side)``."""
    x = torch.randn(1, side, side, 32, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(layer(x)[0, row, column].sum())
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("mixer", KEYS)
def test_a_token_attends_to_as_many_as_the_paper_says(mixer: str, stage: int, block: int) -> None:
    side = SIDES[stage]
    layer = layer_at(mixer, place(stage, block))
    found = seen(layer, side, 5, 6)
    assert found.sum() == KEYS[mixer][stage]
    assert found[5, 6]


@pytest.mark.parametrize(("row", "first"), [(0, 0), (2, 0), (3, 0), (4, 1), (9, 6), (13, 7)])
def test_sliding_windows_stay_in_the_map(row: int, first: int) -> None:
    found = seen(layer_at("sliding", place(2, 0)), 14, row, row)
    inside = torch.zeros(14, 14, dtype=torch.bool)
    inside[first : first + 7, first : first + 7] = True
    assert torch.equal(found, inside)


@pytest.mark.parametrize(("height", "width"), [(5, 4), (6, 3), (9, 7), (2, 6)])
def test_sliding_attention_is_attention_to_the_window(height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = SlidingAttention(8, 2, kernel=3).double()
    nn.init.normal_(layer.rpb)
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    q, k, v = (y.unflatten(-1, (2, 4)) for y in layer.qkv(x).chunk(3, -1))
    expected = torch.empty_like(x)
    for row in range(height):
        for column in range(width):
            top = min(max(row - 1, 0), max(height - 3, 0))
            left = min(max(column - 1, 0), width - 3)
            rows, columns = slice(top, top + 3), slice(left, left + 3)
            scores = (q[0, row, column] * k[0, rows, columns]).sum(-1) / 2  # (3, 3, M)
            for dy in range(min(3, height)):
                for dx in range(3):
                    offset = top + dy - row + 2, left + dx - column + 2
                    scores[dy, dx] += layer.rpb[:, offset[0], offset[1]]
            weights = scores.flatten(0, 1).softmax(0)[..., None]
            expected[0, row, column] = (weights * v[0, rows, columns].flatten(0, 1)).sum(0).ravel()
    torch.testing.assert_close(layer(x), layer.proj(expected))


@pytest.mark.parametrize("axis", ["row", "column"])
def test_axial_attention_is_attention_along_a_line(axis: str) -> None:
    torch.manual_seed(0)
    layer = AxialAttention(8, 2, 4, axis).double()  # type: ignore[arg-type]
    nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, 4, 4, 8, dtype=torch.float64)
    lines = x if axis == "row" else x.transpose(1, 2)
    q, k, v = (y.unflatten(-1, (2, 4)).transpose(2, 3) for y in layer.qkv(lines).chunk(3, -1))
    scores = q @ k.transpose(-1, -2) / 2
    for i in range(4):
        for j in range(4):
            scores[..., i, j] += layer.relative_position_bias_table[:, 0, i - j + 3]
    out = layer.proj((scores.softmax(-1) @ v).transpose(2, 3).flatten(3))
    torch.testing.assert_close(layer(x), out if axis == "row" else out.transpose(1, 2))


def test_full_attention_is_bra_that_routes_to_everything() -> None:
    torch.manual_seed(0)
    full = full_attention(32, 2)
    routed = BiLevelRoutingAttention(32, 2, regions=2, topk=4, scale=32**-0.5)
    routed.load_state_dict(full.state_dict())
    x = torch.randn(2, 6, 8, 32)
    torch.testing.assert_close(full(x), routed(x))


def test_random_routes_are_those_of_the_layer_whatever_is_seen() -> None:
    layer = RandomRouting(32, 2, regions=4, topk=3, seed=1)
    layer.lce = None  # which sees beyond the regions
    inside = layer.routes[0]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected.view(-1)[inside] = True
    for _ in range(2):
        found = seen(layer.double(), 8, 1, 1)
        regions = found.unflatten(1, (4, 2)).unflatten(0, (4, 2)).any(1).any(-1)
        regions[0, 0] |= expected[0, 0]  # its query
        expected[0, 0] = True
        assert torch.equal(regions, expected)
    assert not torch.equal(layer.routes, RandomRouting(32, 2, 4, 3, seed=2).routes)


@pytest.mark.parametrize("mixer", MIXERS)
def test_models_learn_all_their_parameters(mixer: str) -> None:
    torch.manual_seed(0)
    model = build(mixer, MICRO, image_size=112, num_classes=3, in_chans=1)
    images = torch.randn(2, 1, 112, 112)
    logits = model(images)
    assert logits.shape == (2, 3)
    torch.autograd.backward((logits * torch.randn(2, 3)).sum())
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    other = model.eval()(images.flip(3))
    assert not torch.allclose(model(images), other, atol=1e-5)


@pytest.mark.parametrize("mixer", ["window", "separable", "wavelet", "random"])
def test_linear_layers_of_all_mixers_begin_alike(mixer: str) -> None:
    torch.manual_seed(0)
    model = build(mixer, MICRO, image_size=112, num_classes=10)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(0.017 < weight.std().item() < 0.023 for weight in weights)


def test_bra_in_the_layout_is_biformer_stl() -> None:
    with torch.device("meta"):
        ours, published = build("bra").state_dict(), biformer_stl().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items()}


@pytest.mark.parametrize("document", documents("ablation_params_per_block*.json"))
def test_golden_parameters_of_a_block(document: dict[str, dict[str, int]]) -> None:
    for i, facts in enumerate(document.values()):

        def size(mixer: str, block: int, i: int = i, facts: dict[str, int] = facts) -> int:
            at = Place(facts["C"], facts["heads"], i, block, (facts["map"],) * 2)
            layer = MIXERS[mixer].attention(at)
            assert layer is not None
            return sum(p.numel() for p in layer.parameters())

        assert size("window", 0) == size("shifted-window", 1) == facts["window"]
        assert size("separable", 0) == facts["lsa"]
        assert size("separable", 1) == facts["gsa"]
        assert size("cross-shaped", 0) == facts["cswin"]
        assert size("criss-cross", 0) == facts["plain_qkv_proj"]
        if "dat_v1_deformable" in facts:
            assert size("deformable", 1) == facts["dat_v1_deformable"]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [pair for document in documents("wavevit_quadtree_keys*.json") for pair in document.items()],
)
def test_golden_names_and_shapes_of_whole_models(name: str, shapes: list[list[object]]) -> None:
    whole = {
        "wavevit_s": "WaveViT-S*",
        "quadtree_b1": "QuadTree-B-b1",
        "quadtree_b2": "QuadTree-B-b2",
    }
    with torch.device("meta"):
        ours = {k: list(v.shape) for k, v in WHOLE[whole[name]]().state_dict().items()}
    # Buffers of the wavelet's filters are constants, which we need not keep.
    theirs = {str(k): v for k, v in shapes if "dwt." not in str(k)}
    assert ours == theirs


def model_of(name: str) -> nn.Module:
    """A model by its name in the counts."""
    if name.startswith("wavevit"):
        return WHOLE["WaveViT-S*" if "token_label" in name else "WaveViT-S"]()
    _, size, kind = name.split("_")
    return QuadTree(size, kind="A" if kind == "typeA" else "B")


@pytest.mark.parametrize(
    ("name", "counts"),
    [pair for document in documents("wavevit_quadtree_counts*.json") for pair in document.items()],
)
def test_golden_counts_of_whole_models(name: str, counts: dict[str, float]) -> None:
    with torch.device("meta"):
        model = model_of(name).eval()
    assert sum(p.numel() for p in model.parameters()) == counts["params"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    macs = counter.get_total_flops() / 2e9
    assert macs == pytest.approx(counts["torch_counter_GMACs"], rel=0.01)


@pytest.mark.parametrize("mixer", ["window", "cross-shaped", "block-grid", "separable"])
def test_a_map_that_windows_do_not_tile_is_one_error(mixer: str) -> None:
    with pytest.raises(ShapeError, match="another size of images"):
        layer_at(mixer, place(2, 0, side=12))(torch.zeros(1, 12, 12, 32, dtype=torch.float64))


@pytest.mark.parametrize(("mixer", "side"), [("wavelet", 27), ("quadtree-b", 26)])
def test_a_map_that_cannot_be_halved_is_one_error(mixer: str, side: int) -> None:
    with pytest.raises(ShapeError, match=f"got {side} x {side}"):
        layer_at(mixer, place(1, 0))(torch.zeros(1, side, side, 32, dtype=torch.float64))


def test_images_too_small_are_one_error() -> None:
    with pytest.raises(ArgumentError, match="expected image_size to be an integer of at least 32"):
        build("axial", image_size=0)


def test_an_unknown_mixer_is_one_error() -> None:
    with pytest.raises(ArgumentError, match="expected mixer to be one of 'bra', 'random'"):
        build("fourier")
