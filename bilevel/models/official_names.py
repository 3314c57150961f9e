"""Parameters between the names of the official releases and ours, for arrays of any library.

The official names are those of ``rayleizhu/BiFormer``, in three families: BiFormer-T, S and B;
BiFormer-STL; and BiFormer-STL by the nchw code, whose linear layers are 1 x 1 convolutions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bilevel.errors import WeightsError
from bilevel.models.config import PUBLISHED, BiFormerConfig
from bilevel.models.tree import (
    Shapes,
    check_parameters,
    mismatches,
    parameter_shapes,
    parameters,
    tree,
)
from bilevel.protocol import Array

HEAD = ("head.weight", "head.bias")
PREFIXES = ("module.", "backbone.")


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
    return {
        each.name: given[each.official_name].reshape(each.shape)
        for each in parameters(tree(config))
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
        each.official_name: params[each.name].reshape(each.official_shape)
        for each in parameters(tree(config))
    }


def _shapes(config: BiFormerConfig) -> Shapes:
    return {each.official_name: each.official_shape for each in parameters(tree(config))}


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
