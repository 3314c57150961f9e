"""Routes and heat maps are right: planted ones, and those that are computed token by token."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from bilevel import ArgumentError, Backend, Grid, ShapeError, models, visual
from bilevel.models import BiFormer, BiFormerConfig, array_layers
from bilevel.nn import BiLevelRoutingAttention
from tests.models.variants import MICRO, VARIANTS
from tests.visual import planted
from tests.visual.planted import Plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Maps of any size, with regions of two tokens at least."""
    height, width = draw(st.integers(2, 15)), draw(st.integers(1, 15))
    rows, columns = draw(st.integers(1, max(1, height // 2))), draw(st.integers(1, min(4, width)))
    grid = Grid((height, width), (min(rows, 4), columns))
    topk = draw(st.integers(1, grid.num_regions))
    return planted.planned(grid, topk, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


@settings(max_examples=20)
@given(plan=plans(), heads=st.sampled_from((1, 2)), channels_first=st.booleans(), data=st.data())
def test_a_planted_layer_lights_exactly_what_it_must(
    plan: Plan, heads: int, channels_first: bool, data: st.DataObject
) -> None:
    layer, x = planted.layer(plan, heads, channels_first=channels_first)
    row, column = (data.draw(st.integers(0, n - 1)) for n in plan.grid.spatial)
    found = visual.attention_map(layer, x, (column, row), head=heads - 1)
    region = int(planted.region_of(plan.grid)[row, column])
    assert (found.query, found.region) == ((row, column), region)
    assert found.routed == tuple(plan.routes[region])
    np.testing.assert_array_equal(found.routes.index[0], plan.routes)
    lit = {(int(i), int(j)) for i, j in np.argwhere(found.weights > 1e-9)}
    assert lit == plan.lit(region)
    np.testing.assert_array_equal(found.pixels(), found.weights)
    routed = np.isin(planted.region_of(plan.grid), plan.routes[region])
    assert not found.weights[~routed].any()
    np.testing.assert_allclose(found.weights.sum(), 1)


def planted_model(plan: Plan) -> tuple[BiFormer, Tensor]:
    """A whole model of one stage that routes and attends as planned, and its image: the pixels of a
    patch are the channels of its token.

    Layer normalisation divides all tokens by the same: their channels come with the opposite sign
    too, and with what makes the sum of squares the same.
    """
    wanted = planted.tokens(plan)
    rest = (wanted**2).sum(-1, keepdims=True)
    wanted = np.concatenate([wanted, np.sqrt(rest.max() - rest)], axis=-1)
    dim = -(-2 * wanted.shape[-1] // 16) * 16
    wanted = np.concatenate([wanted, -wanted], axis=-1)
    wanted = np.pad(wanted, [(0, 0), (0, 0), (0, dim - wanted.shape[-1])])
    config = BiFormerConfig(
        depths=(1,),
        embed_dims=(dim,),
        topk=(plan.routes.shape[1],),
        head_dim=dim,
        regions=plan.grid.regions[0],
        layout="stl",
        num_classes=2,
    )
    model = BiFormer(config).double().eval()
    _carry_pixels(model)
    attention: Any = model.stages[0][0].attention
    planted.copy_codes(attention.qkv, plan.grid.num_regions)
    with torch.no_grad():
        attention.qkv.weight *= np.sqrt((wanted[0, 0] ** 2).mean())
    attention.scale = 1.0
    height, width = plan.grid.spatial
    patches = np.zeros((height, width, 48))
    patches[..., :dim] = wanted
    image = patches.reshape(height, width, 3, 4, 4).transpose(2, 0, 3, 1, 4)
    return model, torch.from_numpy(image.reshape(1, 3, height * 4, width * 4))


def _carry_pixels(model: BiFormer) -> None:
    """Let the patch embedding copy pixels to channels, and leave all else as it is."""
    conv: Any = model.downsamples[0].conv
    with torch.no_grad():
        conv.bias.zero_()
        conv.weight.zero_()
        for channel in range(conv.weight.shape[0]):
            conv.weight[channel].view(-1)[channel] = 1.0


@settings(max_examples=8)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    regions=st.integers(1, 2),
    data=st.data(),
)
def test_a_planted_model_lights_exactly_the_pixels_it_must(
    size: tuple[int, int], regions: int, data: st.DataObject
) -> None:
    grid = Grid(size, regions)
    topk = data.draw(st.integers(1, grid.num_regions))
    seed = data.draw(st.integers(0, 2**32 - 1))
    plan = planted.planned(grid, topk, np.random.default_rng(seed))
    model, image = planted_model(plan)
    y, x = (data.draw(st.integers(0, 4 * n - 1)) for n in size)
    found = visual.attention_map(model, image, (x, y))
    region = int(planted.region_of(grid)[y // 4, x // 4])
    want = np.zeros(size, bool)
    want[tuple(np.transpose(list(plan.lit(region))))] = True
    np.testing.assert_array_equal(found.pixels() > 1e-6, np.kron(want, np.ones((4, 4))) > 0)
    assert found.routed == tuple(plan.routes[region])


def build(config: BiFormerConfig) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(config).double().eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def given_to_attentions(model: nn.Module, x: Tensor) -> list[tuple[Any, Tensor]]:
    """The attentions of a model in their order, and what they are given."""
    given: list[tuple[Any, Tensor]] = []
    handles = [
        m.register_forward_hook(lambda m, args, _: given.append((m, args[0])))
        for m in model.modules()
        if hasattr(m, "qkv")
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return given


def token_by_token(
    attention: Any, x: Tensor, row: int, column: int, head: int
) -> NDArray[np.float64]:
    """The weights of a token for all tokens of its routed regions, found one by one; without
    padding."""
    height, width = x.shape[1:3]
    grid = Grid((height, width), getattr(attention, "regions", 1))
    of = planted.region_of(grid)
    routes = [0]
    if isinstance(attention, BiLevelRoutingAttention):
        routes = attention(x, return_routes=True)[1].index[0, of[row, column]].tolist()
    q, k, _ = attention.qkv(x)[0].detach().chunk(3, -1)
    size = q.shape[-1] // attention.num_heads
    mine = slice(head * size, (head + 1) * size)
    scores = np.full((height, width), -np.inf)
    for i in range(height):
        for j in range(width):
            if of[i, j] in routes:
                product = torch.dot(q[row, column, mine], k[i, j, mine])
                scores[i, j] = float(product) * attention.scale
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("layout", ["biformer", "stl"])
def test_weights_of_a_model_are_those_of_its_attentions(layout: Any) -> None:
    model, x = build(replace(MICRO, layout=layout)), images(1, 3, 76, 60)
    given = given_to_attentions(model, x)
    places = [(1, 0), (2, 0), (2, -1), (3, 0)]
    for (attention, tokens), (stage, block) in zip(given, places, strict=True):
        side = 4 * 2 ** (stage - 1)
        for y, at_x in ((37, 22), (75, 59)):
            row = min(y // side, tokens.shape[1] - 1)
            column = min(at_x // side, tokens.shape[2] - 1)
            per_head = [
                token_by_token(attention, tokens, row, column, head)
                for head in range(attention.num_heads)
            ]
            for head, want in enumerate(per_head):
                found = visual.attention_map(model, x, (at_x, y), stage, block, head)
                np.testing.assert_allclose(found.weights, want, atol=1e-12)
            mean = visual.attention_map(model, x, (at_x, y), stage, block)
            np.testing.assert_allclose(mean.weights, np.mean(per_head, 0), atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_those_by_which_values_are_added_up(name: str) -> None:
    """For any padding: of values that are the same all over, less is left where padding, whose
    values are zero, is attended to."""
    model, x = build(replace(VARIANTS[name], depths=(1, 1, 1))), images(1, 3, 76, 60)
    for stage in (1, 2, 3):
        attention: Any = model.stages[stage - 1][0].attention
        dim = attention.proj.in_features
        lce, bias = attention.lce, attention.qkv.bias
        with torch.no_grad():
            attention.qkv.weight[2 * dim :] = 0.0
            if bias is not None:
                bias[2 * dim :] = 0.0
            lce.weight.zero_()
            lce.bias.zero_()
            attention.proj.weight.copy_(torch.eye(dim))
            attention.proj.bias.zero_()
            # Values that tell tokens apart: the first channel of each, as it is.
            attention.qkv.weight[2 * dim, 0] = 1.0
        tokens = given_to_attentions(model, x)[stage - 1][1]
        out = attention(tokens)[0, ..., 0].detach().numpy()
        side = 4 * 2 ** (stage - 1)
        for row, column in ((0, 0), (tokens.shape[1] - 1, tokens.shape[2] - 1)):
            at = min(column * side, 59), min(row * side, 75)
            found = visual.attention_map(model, x, at, stage, 0, head=0)
            added = (found.weights * tokens[0, ..., 0].numpy()).sum()
            np.testing.assert_allclose(added, out[row, column], atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_a_model_changes(name: str, training: bool) -> None:
    model, x = build(replace(VARIANTS[name], drop_path=0.5)), images(2, 3, 72, 56)
    want = model(x)
    model.train(training)
    model.stages[1].train(not training)
    modes = {key: module.training for key, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state()
    found = visual.routes(model, x)
    visual.attention_map(model, x[:1], (5, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()
    model.eval()
    assert torch.equal(model(x), want)
    theirs = [each for stage in models.routes(model, x) for each in stage]
    for ours, want_routes in zip([b for blocks in found for b in blocks], theirs, strict=True):
        assert ours.full == (want_routes is None)
        if want_routes is None:
            assert ours.index.shape == (2, 1, 1)
        else:
            np.testing.assert_array_equal(ours.index, want_routes.index.numpy())
            np.testing.assert_array_equal(ours.score, want_routes.score.numpy())


@pytest.mark.parametrize("name", VARIANTS)
def test_models_over_arrays_show_the_same(name: str) -> None:
    model, x = build(VARIANTS[name]), images(1, 3, 76, 60)
    params = {key: value.numpy() for key, value in model.state_dict().items()}
    bound = models.bind(model.config, params)
    for stage in (1, 2, 3):
        ours = visual.attention_map(bound, x.numpy(), (41, 30), stage)
        theirs = visual.attention_map(model, x, (41, 30), stage)
        assert (ours.query, ours.routed) == (theirs.query, theirs.routed)
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-9)


def test_arrays_of_the_standard_show_the_same(strict: Backend) -> None:
    """What CuPy's arrays have in common with others is enough."""
    import array_api_strict

    model, x = build(MICRO), images(1, 3, 76, 60)
    params = {key: array_api_strict.asarray(v.numpy()) for key, v in model.state_dict().items()}
    bound = array_layers.build(array_api_strict, model.config, params, strict)
    ours = visual.attention_map(bound, array_api_strict.asarray(x.numpy()), (41, 30), 2)
    theirs = visual.attention_map(model, x, (41, 30), 2)
    assert (ours.query, ours.routed) == (theirs.query, theirs.routed)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_models_of_any_dtype_and_one_channel(dtype: torch.dtype) -> None:
    model = build(replace(MICRO, in_chans=1)).to(dtype)
    found = visual.attention_map(model, images(1, 1, 40, 64).to(dtype), (63, 39), 2)
    np.testing.assert_allclose(found.weights.sum(), 1)
    assert found.pixels().shape == (40, 64)


def test_backbones_of_dense_prediction_have_routes_too() -> None:
    backbone, x = models.Backbone(MICRO), images(2, 3, 76, 60).float()
    found = visual.routes(backbone, x)
    assert [len(blocks) for blocks in found] == list(MICRO.depths)
    given = given_to_attentions(backbone.eval(), x)
    for block, (attention, tokens) in zip(chain(*found), given, strict=True):
        if not block.full:
            _, routes = attention(tokens, return_routes=True)
            np.testing.assert_array_equal(block.index, routes.index.numpy())


def test_layers_of_one_and_three_axes_have_routes() -> None:
    for axes in (1, 3):
        layer = BiLevelRoutingAttention(16, 2, regions=2, topk=2, spatial_dims=axes)
        ((found,),) = visual.routes(layer, torch.zeros(2, *(5, 6, 7)[:axes], 16))
        assert found.index.shape == (2, 2**axes, 2)
        assert found.boxes().shape == (2**axes, axes, 2)
        assert found.region_map().shape == (5, 6, 7)[:axes]
        with pytest.raises(ShapeError, match="expected an image with two spatial axes"):
            visual.attention_map(layer, torch.zeros(1, *(5, 6, 7)[:axes], 16), (0, 0))


@given(
    spatial=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    cut=st.integers(0, 3),
    data=st.data(),
)
def test_boxes_and_maps_of_regions_are_the_same_regions(
    spatial: list[int], cut: int, data: st.DataObject
) -> None:
    grid = Grid(spatial, [data.draw(st.integers(1, n)) for n in spatial])
    tokens = tuple(max(1, n - cut) for n in spatial)
    block = visual.BlockRoutes(np.zeros((1, 1, 1), np.int64), None, grid, tokens, 4)
    want = np.full(tokens, -1)
    for region, box in enumerate(block.boxes()):
        want[tuple(slice(first, last) for first, last in box)] = region
    np.testing.assert_array_equal(block.region_map(), want)
    for region in range(grid.num_regions):
        inside = block.token_map()[want == region]
        assert len(set(inside.tolist())) == inside.size


def test_what_is_not_there_is_said() -> None:
    model, x = build(MICRO), images(1, 3, 72, 56)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"at": (56, 0)}, r"expected at\[0\] to be an integer from 0 to 55, the pixels of the im"),
        ({"at": (0, -1)}, r"expected at\[1\] to be an integer from 0 to 71"),
        ({"stage": 4}, "expected stage to be an integer from 1 to 3, the stages of the model, got"),
        ({"stage": 2, "block": 2}, "expected block to be an integer from -2 to 1, of 2 blocks of"),
        ({"stage": 2, "head": 2}, "expected head to be an integer from 0 to 1, of 2 heads, got 2"),
    ]
    for wrong, message in cases:
        with pytest.raises(ArgumentError, match=message):
            visual.attention_map(model, x, **{"at": (0, 0), **wrong})
    with pytest.raises(
        ShapeError, match=r"expected one image \(1, C, H, W\), got \(2, 3, 72, 56\)"
    ):
        visual.attention_map(model, images(2, 3, 72, 56), (0, 0))
    with pytest.raises(ShapeError, match=r"expected images \(N, C, H, W\), got \(3, 72, 56\)"):
        visual.routes(model, images(3, 72, 56))
    with pytest.raises(ArgumentError, match=r"expected a BiFormer, .* got Linear; give the"):
        visual.routes(nn.Linear(3, 3), images(1, 3))
