"""The tree of layers says what the torch module, written by hand, has."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch

from bilevel import models
from bilevel.models import BiFormer, BiFormerConfig, parameter_shapes
from bilevel.models.config import Layout
from bilevel.models.tree import Layer, Node, tree
from bilevel.official_padding import Padding, Variant

MICRO = BiFormerConfig(
    depths=(1, 2, 1), embed_dims=(8, 16, 32), topk=(1, 4, None), head_dim=8, num_classes=5
)
KINDS = product(get_args(Layout), get_args(Variant), get_args(Padding))
CONFIGS = models.PUBLISHED | {
    " ".join(kind): replace(MICRO, layout=kind[0], variant=kind[1], padding=kind[2])
    for kind in KINDS
}
CONFIGS["no head"] = replace(MICRO, num_classes=0, in_chans=1)
CONFIGS["token labels"] = replace(MICRO, token_labels=True)
CONFIGS["token labels, no head"] = replace(MICRO, num_classes=0, token_labels=True)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> BiFormerConfig:
    return CONFIGS[request.param]


def on_meta(config: BiFormerConfig) -> BiFormer:
    with torch.device("meta"):
        return BiFormer(config)


def test_the_state_dict_is_that_of_the_tree_in_its_order(config: BiFormerConfig) -> None:
    shapes = [(name, tuple(x.shape)) for name, x in on_meta(config).state_dict().items()]
    assert shapes == list(parameter_shapes(config).items())


def layers(node: Layer | Node, name: str = "") -> dict[str, Layer]:
    if isinstance(node, Layer):
        return {name.removeprefix("."): node}
    found: dict[str, Layer] = {}
    for ours, (_, child) in node.children.items():
        found |= layers(child, f"{name}.{ours}")
    return found


def test_layers_compute_as_the_tree_says(config: BiFormerConfig) -> None:
    """What shapes do not tell: the kind of a layer, strides, padding, eps."""
    model = on_meta(config)
    for name, layer in layers(tree(config)).items():
        module = model.get_submodule(name)
        options = dict(layer.options)
        if layer.kind == "depthwise":
            size = layer.shapes["weight"][-1]
            options |= {"stride": 1, "padding": size // 2, "groups": layer.shapes["bias"][0]}
        classes = {
            "linear": torch.nn.Linear,
            "conv": torch.nn.Conv2d,
            "depthwise": torch.nn.Conv2d,
            "batch_norm": torch.nn.BatchNorm2d,
            "layer_norm": torch.nn.LayerNorm,
            "identity": torch.nn.Identity,
        }
        assert type(module) is classes[layer.kind], name
        for option, value in options.items():
            pair = (value, value) if option in ("stride", "padding") else value
            assert getattr(module, option) == pair, (name, option)
