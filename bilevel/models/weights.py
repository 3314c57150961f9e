"""Parameters between the names of the official releases and ours, for arrays of any library.

The official names are those of ``rayleizhu/BiFormer``, in three families: BiFormer-T, S and B;
BiFormer-STL; and BiFormer-STL by the nchw code, whose linear layers are 1 x 1 convolutions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from bilevel.errors import WeightsError
from bilevel.models.config import PUBLISHED, BiFormerConfig
from bilevel.models.parameters import Shapes, check_parameters, mismatches, parameter_shapes
from bilevel.protocol import Array

HEAD = ("head.weight", "head.bias")
PREFIXES = ("module.", "backbone.")


class Official(NamedTuple):
    """Where the official code keeps a parameter of ours."""

    name: str
    shape: tuple[int, ...]


def from_official(
    state_dict: Mapping[str, Any], config: BiFormerConfig | None = None
) -> dict[str, Array]:
    """The parameters of an official checkpoint under our names, for ``load_state_dict``.

    ``{"model": ...}`` wrappers and ``module.`` or ``backbone.`` prefixes are taken off. A head of
    another size than ``config.num_classes`` is left out, with a warning that names it.

    Parameters
    ----------
    state_dict
        Official names to arrays of any library.
    config
        The model that the parameters are for; None is the published model that they fit.

    Raises
    ------
    WeightsError
        If anything is missing, left over or of another shape; the message lists it.

    Examples
    --------
    >>> import numpy as np
    >>> shapes = parameter_shapes(PUBLISHED["biformer_tiny"])
    >>> ours = {name: np.zeros(shape) for name, shape in shapes.items()}
    >>> official = to_official(ours)
    >>> "stages.0.0.attn.qkv.qkv.weight" in official
    True
    >>> from_official({"model": official}).keys() == ours.keys()
    True
    """
    given = _unwrapped(state_dict)
    if config is None:
        config = _closest(given, {name: _shapes(c) for name, c in PUBLISHED.items()})
    if all(name in given for name in HEAD):
        classes = given[HEAD[0]].shape[0]
        if classes != config.num_classes:
            warnings.warn(
                f"left out {' and '.join(HEAD)}: the checkpoint has {classes} classes, "
                f"the model {config.num_classes}",
                stacklevel=2,
            )
            given = {name: array for name, array in given.items() if name not in HEAD}
            config = replace(config, num_classes=0)
    check_parameters(_shapes(config), given, f"the official {config}")
    shapes = parameter_shapes(config)
    return {
        ours: given[official.name].reshape(shapes[ours])
        for ours, official in official_layout(config).items()
    }


def to_official(
    params: Mapping[str, Array], config: BiFormerConfig | None = None
) -> dict[str, Array]:
    """The inverse of :func:`from_official`: our names and shapes to the official ones.

    ``config`` is the model that the parameters are of; None is the published model that they fit.
    BiFormer-STL and its nchw variant have the same parameters here: None takes the first.

    Raises WeightsError if anything is missing, left over or of another shape.
    """
    if config is None:
        shapes = {name: parameter_shapes(c) for name, c in PUBLISHED.items()}
        config = _closest(params, shapes)
    check_parameters(parameter_shapes(config), params, str(config))
    return {
        official.name: params[ours].reshape(official.shape)
        for ours, official in official_layout(config).items()
    }


def official_layout(config: BiFormerConfig) -> dict[str, Official]:
    """Official name and shape of each of our parameters, in our order."""
    layout = {}
    for name, shape in parameter_shapes(config).items():
        part, *path, leaf = name.split(".")
        if part == "downsamples":
            official = [f"downsample_layers.{path[0]}", _downsample(config, *path)]
        elif part == "stages":
            inner = "" if config.layout == "biformer" else "blocks."
            layer = ".".join(path[2:])
            official = [f"stages.{path[0]}.{inner}{path[1]}", _layer(config, int(path[0]), layer)]
            if config.variant == "nchw" and len(shape) == 2:
                shape = (*shape, 1, 1)
        else:
            official = [part]
        layout[name] = Official(".".join([*official, leaf]), shape)
    return layout


def _downsample(config: BiFormerConfig, stage: str, layer: str) -> str:
    if config.layout == "biformer":
        return {"conv1": "0", "norm1": "1", "conv2": "3", "norm2": "4", "conv": "0", "norm": "1"}[
            layer
        ]
    return str(["conv", "norm"].index(layer) if stage == "0" else ["norm", "conv"].index(layer))


def _layer(config: BiFormerConfig, stage: int, layer: str) -> str:
    if config.topk[stage] is None:
        attention = {"qkv": "qkv", "proj": "proj"}
    elif config.variant == "legacy":
        attention = {"qkv": "qkv.qkv", "proj": "wo"}
    else:
        attention = {"qkv": "qkv_linear", "proj": "output_linear"}
    return {
        "position": "pos_embed",
        "attention.lce": "attn.lepe",
        "attention.qkv": f"attn.{attention['qkv']}",
        "attention.proj": f"attn.{attention['proj']}",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3" if config.layout == "biformer" else "mlp.2",
    }.get(layer, layer)


def _shapes(config: BiFormerConfig) -> Shapes:
    return dict(official_layout(config).values())


def _closest(given: Mapping[str, Any], candidates: Mapping[str, Shapes]) -> BiFormerConfig:
    """The published model with the fewest mismatches, with the head that is given."""
    name = min(candidates, key=lambda name: len(mismatches(candidates[name], given)))
    head = given.get(HEAD[0])
    return replace(PUBLISHED[name], num_classes=0 if head is None else head.shape[0])


def _unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Array]:
    """The parameters alone: without the dict around them and the prefixes before their names."""
    if not isinstance(state_dict, Mapping):
        raise WeightsError(f"expected a mapping of names to arrays, got {type(state_dict)}")
    while isinstance(inner := state_dict.get("model", state_dict.get("state_dict")), Mapping):
        state_dict = inner
    given = {str(name): array for name, array in state_dict.items()}
    for prefix in (*PREFIXES, *PREFIXES):
        if given and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): array for name, array in given.items()}
    strangers = [name for name, array in given.items() if not hasattr(array, "shape")]
    if strangers:
        raise WeightsError(
            f"expected a mapping of names to arrays, got something else at {', '.join(strangers)}"
        )
    return given
