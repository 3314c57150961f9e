"""A BiFormer as a tree of layers: their kinds, sizes, our names and the official ones.

From it follow the shapes of parameters (here), the layers of arrays (:mod:`array_layers`) and the
names of the official releases (:mod:`official_names`). The torch modules are written by hand, since
people read, hook and wrap them; a test holds them to this tree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from bilevel.errors import WeightsError
from bilevel.models import biformer
from bilevel.models.config import (
    FULL_ATTENTION_HEADS,
    LEVEL_NORM_EPS,
    BackboneConfig,
    BiFormerConfig,
)
from bilevel.official_padding import ROUTED_ATTENTION
from bilevel.protocol import Array

Shapes: TypeAlias = dict[str, tuple[int, ...]]
Kind: TypeAlias = Literal["linear", "conv", "depthwise", "batch_norm", "layer_norm", "identity"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Layer(NamedTuple):
    """A layer that has parameters, or an identity in the place of one."""

    kind: Kind
    shapes: Shapes
    """Of each parameter and buffer, in torch's order: convolutions are ``(out, in, height, width)``
    and linear layers ``(out, in)``."""
    options: Mapping[str, Any] = NOTHING
    """What else says how the layer computes: stride, padding, eps."""
    official_shapes: Mapping[str, tuple[int, ...]] = NOTHING
    """Where they differ from ours."""


IDENTITY = Layer("identity", {})


class Node(NamedTuple):
    """A function of the architecture, with what its ``p`` has; or a row of nodes."""

    children: Mapping[str, tuple[str, Layer | Node]]
    """By our name: the official name, and the layer or node."""
    function: Callable[..., Array] | None = None
    """None for a row, which is not called as one."""
    values: Mapping[str, Any] = NOTHING
    """Attributes of ``p`` besides layers."""


class Parameter(NamedTuple):
    """A parameter or buffer, here and in the official code."""

    name: str
    shape: tuple[int, ...]
    official_name: str
    official_shape: tuple[int, ...]


def linear(inputs: int, outputs: int, bias: bool = True, official_conv: bool = False) -> Layer:
    """A linear layer; with ``official_conv`` the official code has it as a 1 x 1 convolution."""
    shapes = _weight((outputs, inputs), bias)
    official: Shapes = {"weight": (outputs, inputs, 1, 1)} if official_conv else {}
    return Layer("linear", shapes, official_shapes=official)


def conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> Layer:
    """A convolution that lowers the size of a map."""
    shapes = _weight((outputs, inputs, kernel, kernel))
    return Layer("conv", shapes, {"stride": stride, "padding": padding})


def depthwise(dim: int, kernel: int) -> Layer:
    """A convolution of each channel on its own, which keeps the size of a map."""
    return Layer("depthwise", _weight((dim, 1, kernel, kernel)))


def batch_norm(dim: int) -> Layer:
    """Normalisation of each channel."""
    running: Shapes = {"running_mean": (dim,), "running_var": (dim,), "num_batches_tracked": ()}
    return Layer("batch_norm", _weight((dim,)) | running)


def layer_norm(dim: int, eps: float) -> Layer:
    """Normalisation of each token."""
    return Layer("layer_norm", _weight((dim,)), {"eps": eps})


def tree(config: BiFormerConfig) -> Node:
    """The layers of a model, or of a backbone."""
    widths = (config.in_chans, *config.embed_dims)
    stages = range(config.stages)
    within = "" if config.layout == "biformer" else ".blocks"
    downsamples = {str(i): (str(i), _downsample(config, i, *widths[i : i + 2])) for i in stages}
    blocks = {str(i): (f"{i}{within}", _stage(config, i)) for i in stages}
    body: dict[str, tuple[str, Layer | Node]] = {
        "downsamples": ("downsample_layers", Node(downsamples)),
        "stages": ("stages", Node(blocks)),
    }
    if isinstance(config, BackboneConfig):
        norms = {"norms": ("extra_norms", _level_norms(config))}
        return Node(body | norms, biformer.levels, {"out_indices": config.out_indices})
    classes = config.num_classes
    ends: dict[str, tuple[str, Layer | Node]] = {
        "norm": ("norm", batch_norm(widths[-1])),
        "head": ("head", linear(widths[-1], classes) if classes else IDENTITY),
    }
    if classes and config.token_labels:
        ends["aux_head"] = ("aux_head", linear(widths[-1], classes))
        return Node(body | ends, biformer.logits_with_tokens)
    return Node(body | ends, biformer.logits)


def parameters(node: Layer | Node, name: str = "", official: str = "") -> Iterator[Parameter]:
    """Every parameter and buffer below a node, in the order of torch's ``state_dict``."""
    if isinstance(node, Layer):
        for leaf, shape in node.shapes.items():
            official_shape = node.official_shapes.get(leaf, shape)
            yield Parameter(f"{name}.{leaf}", shape, f"{official}.{leaf}", official_shape)
    else:
        for ours, (theirs, child) in node.children.items():
            yield from parameters(child, _joined(name, ours), _joined(official, theirs))


def parameter_shapes(config: BiFormerConfig) -> Shapes:
    """Name and shape of every parameter and buffer, in the order of torch's ``state_dict``.

    Convolutions are ``(out, in, height, width)`` and linear layers ``(out, in)``, as in torch.

    >>> parameter_shapes(BiFormerConfig())["stages.0.0.attention.qkv.weight"]
    (192, 64)
    """
    return {each.name: each.shape for each in parameters(tree(config))}


def mismatches(expected: Shapes, given: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is missing, left over or of another shape, each in a few words, by these sorts."""
    return {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in given],
        "left over": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} is {tuple(given[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in given and tuple(given[name].shape) != shape
        ],
    }


def check_parameters(expected: Shapes, given: Mapping[str, Any], whose: str) -> None:
    """Raise a WeightsError that tells of every sort of mismatch."""
    wrong = mismatches(expected, given)
    if any(wrong.values()):
        raise WeightsError(
            f"expected the {len(expected)} parameters of {whose}, got {len(given)}: "
            + "; ".join(f"{sort} {a_few(names)}" for sort, names in wrong.items() if names)
        )


def a_few(names: Collection[str], most: int = 5) -> str:
    """The first names, and how many more there are.

    >>> a_few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(islice(names, most)) + (f" and {more} more" if more > 0 else "")


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _weight(shape: tuple[int, ...], bias: bool = True) -> Shapes:
    return {"weight": shape, "bias": shape[:1]} if bias else {"weight": shape}


def _level_norms(config: BackboneConfig) -> Node:
    """A norm for each stage that maps are given of."""
    norms = {
        str(i): layer_norm(dim, LEVEL_NORM_EPS) if i in config.out_indices else IDENTITY
        for i, dim in enumerate(config.embed_dims[: config.stages])
    }
    return Node({name: (name, norm) for name, norm in norms.items()})


def _downsample(config: BiFormerConfig, stage: int, width: int, dim: int) -> Node:
    if config.layout == "biformer" and stage == 0:
        return Node(
            {
                "conv1": ("0", conv(width, dim // 2, kernel=3, stride=2, padding=1)),
                "norm1": ("1", batch_norm(dim // 2)),
                "conv2": ("3", conv(dim // 2, dim, kernel=3, stride=2, padding=1)),
                "norm2": ("4", batch_norm(dim)),
            },
            biformer.overlapping_stem,
        )
    if config.layout == "stl" and stage > 0:
        merge = conv(width, dim, kernel=2, stride=2, padding=0)
        return Node({"norm": ("0", batch_norm(width)), "conv": ("1", merge)}, biformer.norm_conv)
    kernel, stride, padding = (4, 4, 0) if stage == 0 else (3, 2, 1)
    layer = conv(width, dim, kernel, stride, padding)
    return Node({"conv": ("0", layer), "norm": ("1", batch_norm(dim))}, biformer.conv_norm)


def _stage(config: BiFormerConfig, stage: int) -> Node:
    block = _block(config, stage)
    return Node({str(i): (str(i), block) for i in range(config.depths[stage])}, biformer.stage)


def _block(config: BiFormerConfig, stage: int) -> Node:
    dim = config.embed_dims[stage]
    position = {"position": ("pos_embed", depthwise(dim, 3))}
    return Node(
        {
            **(position if config.layout == "biformer" else {}),
            "norm1": ("norm1", layer_norm(dim, config.layer_norm_eps)),
            "attention": ("attn", _attention(config, stage)),
            "norm2": ("norm2", layer_norm(dim, config.layer_norm_eps)),
            "mlp": ("mlp", _mlp(config, dim)),
        },
        biformer.BLOCK[config.layout],
    )


def _mlp(config: BiFormerConfig, dim: int) -> Node:
    hidden, as_conv = dim * config.mlp_ratio, config.variant == "nchw"
    return Node(
        {
            "fc1": ("0", linear(dim, hidden, official_conv=as_conv)),
            "fc2": (
                "3" if config.layout == "biformer" else "2",
                linear(hidden, dim, official_conv=as_conv),
            ),
        },
        biformer.mlp,
    )


def _attention(config: BiFormerConfig, stage: int) -> Node:
    dim, topk, as_conv = config.embed_dims[stage], config.topk[stage], config.variant == "nchw"
    if topk is None:
        names = "qkv", "proj"
    else:
        names = ("qkv_linear", "output_linear") if as_conv else ("qkv.qkv", "wo")
    bias = topk is not None
    layers = {
        "qkv": (names[0], linear(dim, 3 * dim, bias, official_conv=as_conv)),
        "lce": ("lepe", depthwise(dim, 5)),
        "proj": (names[1], linear(dim, dim, official_conv=as_conv)),
    }
    if topk is None:
        heads = FULL_ATTENTION_HEADS
        values = {"num_heads": heads, "scale": (dim // heads) ** -0.5, "lce_on_values": as_conv}
        return Node(layers, biformer.full_attention, values)
    routed = {
        "num_heads": dim // config.head_dim,
        "topk": topk,
        "regions": (config.regions, config.regions),
        "scale": dim**-0.5,  # of all heads: what the released weights were trained with
    }
    return Node(layers, ROUTED_ATTENTION[config.padding, config.variant], routed)
