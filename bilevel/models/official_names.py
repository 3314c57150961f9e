"""Parameters between the names of the official releases and ours, for arrays of any library.

The official names are those of ``rayleizhu/BiFormer``, in three families: BiFormer-T, S and B;
BiFormer-STL; and BiFormer-STL by the nchw code, whose linear layers are 1 x 1 convolutions.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from bilevel.errors import WeightsError
from bilevel.models.config import MODELS, BackboneConfig, BiFormerConfig
from bilevel.models.state_dicts import Found, find, flattened
from bilevel.models.tree import (
    Shapes,
    a_few,
    check_parameters,
    mismatches,
    parameter_shapes,
    parameters,
    tree,
)
from bilevel.protocol import Array

T = TypeVar("T")

HEAD = ("head.weight", "head.bias")
AUX_HEAD = ("aux_head.weight", "aux_head.bias")
"""Of tokens: the official code has none, and this is its name where models were trained by it."""
ENDS = ("norm.", "head.", "aux_head.")
NORMS = ("extra_norms.", "norms.")
"""Of a backbone's maps, by official names and by ours."""
STEM = "downsample_layers.0.0.weight"
STEMS = (STEM, "downsamples.0.conv1.weight", "downsamples.0.conv.weight")
OURS = "stages.0.0.attention.qkv.weight"
MEAN, COUNT = "running_mean", "num_batches_tracked"


def from_official(
    state_dict: Mapping[str, Any], config: BiFormerConfig | None = None
) -> dict[str, Array]:
    """The parameters of an official checkpoint under our names, for ``load_state_dict``.

    They are found in dicts of any depth (``{"model": ...}``) and under any prefix (``module.``,
    ``backbone.``), beside parameters of other modules. Where averaged parameters (EMA) are there
    too, the raw ones are taken, as those of the published accuracy are.

    A warning says what was left out: a head of another size than ``config.num_classes``, other
    modules, other copies of the model; and which of head and last norm are not there, as in files
    for detection and segmentation. Counts of batches that old files lack are zeros.

    Parameters
    ----------
    state_dict
        Official names to arrays of any library, or what a trainer saved around them.
    config
        The model that the parameters are for, or the config of a :class:`Backbone`: the norms of
        its maps stay new where the checkpoint is of a classifier, and the warning says so. None is
        the published model that they fit, or the micro one, with their number of classes and input
        channels; or the backbone of one, if they have the norms of its four maps.

    Raises
    ------
    WeightsError
        If anything is missing, left over within the model or of another shape; it is listed.

    Examples
    --------
    >>> import numpy as np
    >>> from bilevel.models import PUBLISHED
    >>> shapes = parameter_shapes(PUBLISHED["biformer_tiny"])
    >>> ours = {name: np.zeros(shape) for name, shape in shapes.items()}
    >>> official = to_official(ours)
    >>> "stages.0.0.attn.qkv.qkv.weight" in official
    True
    >>> from_official({"model": official}).keys() == ours.keys()
    True
    """
    found = renamed(state_dict, config)
    if found.notes:
        warnings.warn("; ".join(found.notes), stacklevel=2)
    return found.params


class Renamed(NamedTuple):
    """What :func:`from_official` returns, and what it found besides."""

    params: dict[str, Array]
    notes: list[str]
    """What it warns of."""
    config: BiFormerConfig
    prefix: str
    """Of the official names, in what was given."""


def renamed(
    state_dict: Mapping[str, Any],
    config: BiFormerConfig | None,
    models: Mapping[str, BiFormerConfig] = MODELS,
) -> Renamed:
    """As :func:`from_official`, with what it warns of; ``models`` are those to choose from."""
    arrays = _arrays(state_dict)
    found = _found(arrays, config)
    given = _with_counts(found.own)
    if config is None:
        config = _closest(given, {name: _shapes(c) for name, c in models.items()})
        under = {n.removeprefix(found.prefix) for n in found.rest if n.startswith(found.prefix)}
        if (backbone := _backbone(config, {*given, *under})) is not None:
            return renamed(arrays, backbone)
    unused, notes = _unused(config, given)
    expected = {name: shape for name, shape in _shapes(config).items() if name not in unused}
    given = {name: array for name, array in given.items() if name not in unused}
    if any(mismatches(expected, given).values()):
        beside = [n for n in found.rest if n.startswith(found.prefix)]
        check_parameters(
            expected,
            given | {name.removeprefix(found.prefix): None for name in beside},
            f"the official {config}",
        )
    params = {
        each.name: given[each.official_name].reshape(each.shape)
        for each in parameters(tree(config))
        if each.official_name in given
    }
    return Renamed(params, notes + _left_out(found), config, found.prefix)


def to_official(
    params: Mapping[str, Array], config: BiFormerConfig | None = None
) -> dict[str, Array]:
    """The inverse of :func:`from_official`: our names and shapes to the official ones.

    ``config`` is the model or backbone that the parameters are of; None is the named one that they
    fit.
    BiFormer-STL and its nchw variant have the same parameters here: None takes the first.

    Raises WeightsError if anything is missing, left over or of another shape.
    """
    config = closest(params) if config is None else config
    check_parameters(parameter_shapes(config), params, str(config))
    return {
        each.official_name: params[each.name].reshape(each.official_shape)
        for each in parameters(tree(config))
    }


def closest(
    params: Mapping[str, Array], models: Mapping[str, BiFormerConfig] = MODELS
) -> BiFormerConfig:
    """The named model that parameters by our names fit, or come nearest to, or its backbone."""
    config = _closest(params, {name: parameter_shapes(c) for name, c in models.items()})
    return _backbone(config, params) or config


def _shapes(config: BiFormerConfig) -> Shapes:
    return {each.official_name: each.official_shape for each in parameters(tree(config))}


def _backbone(config: BiFormerConfig, given: Collection[str]) -> BackboneConfig | None:
    """The backbone of a model, if given names are of one: with a norm for each stage, by official
    names or ours, and without the model's own ends."""
    if any(name.startswith(ENDS) for name in given):
        return None
    backbone = BackboneConfig.of(config)
    norms = [each for each in parameters(tree(backbone)) if each.name.startswith(NORMS)]
    of_all = ({each.name for each in norms}, {each.official_name for each in norms})
    return backbone if any(names <= {*given} for names in of_all) else None


def _unused_by_backbone(
    config: BackboneConfig, given: Mapping[str, Array]
) -> tuple[list[str], list[str]]:
    """The same for a backbone: a model's ends, the stages and norms that it has not, and its own
    norms where the checkpoint is of a classifier."""
    expected, whole = _shapes(config), _shapes(config.whole())
    foreign = [n for n in given if n not in expected and (n in whole or n.startswith(ENDS))]
    norms = [name for name in expected if name.startswith(NORMS)]
    absent = [] if any(name in given for name in norms) else norms
    notes = [f"the checkpoint has no {a_few(absent)}, which stay new"] if absent else []
    return foreign + absent, notes + ([f"left out {a_few(foreign)}"] if foreign else [])


def _unused(config: BiFormerConfig, given: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    """What of a model's ends is not taken, or not in the checkpoint of another task; and why."""
    if isinstance(config, BackboneConfig):
        return _unused_by_backbone(config, given)
    classes = _classes(given)
    if classes not in (None, config.num_classes):
        reason = f"the checkpoint has {classes} classes, the model {config.num_classes}"
        left_out = [*HEAD, *(name for name in AUX_HEAD if name in given)]
        return [*HEAD, *AUX_HEAD], [f"left out {' and '.join(left_out)}: {reason}"]
    expected, absent, foreign = _shapes(config), [], []
    for names, start in ((HEAD, "head."), (AUX_HEAD, "aux_head.")):
        if not any(name in given for name in names):
            foreign += [name for name in given if name.startswith(start)]  # of another task
            absent += [name for name in names if name in expected]
    if not config.token_labels:
        foreign += [name for name in AUX_HEAD if name in given]
    if not any(name in HEAD or name.startswith("norm.") for name in given):
        absent += [name for name in expected if name.startswith("norm.")]
    notes = [f"the checkpoint has no {a_few(absent)}"] if absent else []
    return foreign + absent, notes + ([f"left out {a_few(foreign)}"] if foreign else [])


def _body(arrays: Mapping[str, T]) -> dict[str, T]:
    """What every checkpoint of a model has, whatever its task."""
    return {name: x for name, x in arrays.items() if not name.startswith((*ENDS, *NORMS))}


def _closest(given: Mapping[str, Any], candidates: Mapping[str, Shapes]) -> BiFormerConfig:
    """The named model with the fewest mismatches, with the head and input that are given."""
    body = _body(given)

    def distance(name: str) -> int:
        return sum(map(len, mismatches(_body(candidates[name]), body).values()))

    config = MODELS[min(candidates, key=distance)]
    stem = next((given[name] for name in STEMS if name in given), None)
    channels = config.in_chans if stem is None or len(stem.shape) != 4 else stem.shape[1]
    return replace(
        config,
        num_classes=_classes(given) or 0,
        in_chans=max(1, channels),
        token_labels=AUX_HEAD[0] in given,
    )


def _classes(given: Mapping[str, Array]) -> int | None:
    """Outputs of the head; None if there is none."""
    head = given.get(HEAD[0])
    return head.shape[0] if head is not None and head.shape else None


def _arrays(state_dict: Mapping[str, Any]) -> dict[str, Array]:
    if not isinstance(state_dict, Mapping):
        raise WeightsError(f"expected a mapping of names to arrays, got {type(state_dict)}")
    everything = flattened(state_dict)
    arrays = {name: array for name, array in everything.items() if hasattr(array, "shape")}
    if not arrays:
        raise WeightsError(
            "expected a mapping of names to arrays, got something else at "
            + (a_few(everything) or "nothing")
        )
    return arrays


def _found(arrays: Mapping[str, Array], config: BiFormerConfig | None) -> Found:
    """The model among the arrays of a checkpoint."""
    if ours := [name for name in arrays if name.endswith(OURS)]:
        raise WeightsError(
            f"expected official names, got bilevel's own, such as {ours[0]}: they need no renaming "
            "(bilevel.train.run.load gives the model of a run of `bilevel train`)"
        )
    configs = MODELS.values() if config is None else [config]
    names = {name for each in configs for name in _shapes(each)} | {*AUX_HEAD}
    if isinstance(config, BackboneConfig):  # of classifiers, and of all stages, too
        names |= _shapes(config.classifier()).keys() | _shapes(config.whole()).keys()
    found = find(arrays, names)
    if found is None:
        raise WeightsError(
            f"expected the official parameters of a BiFormer, found none of them in "
            f"{len(arrays)} arrays: {a_few(arrays)}"
        )
    return found


def _with_counts(given: Mapping[str, Array]) -> dict[str, Array]:
    """With a zero for how often each norm was used, if the checkpoint has no such counts."""
    if any(name.endswith(COUNT) for name in given):
        return dict(given)
    means = {name: array for name, array in given.items() if name.endswith(MEAN) and array.shape}
    zeros = {  # an integer zero of any library
        name.removesuffix(MEAN) + COUNT: (array[:0] == 0).sum(0, keepdims=True).reshape(())
        for name, array in means.items()
    }
    return {**given, **zeros}


def _left_out(found: Found) -> list[str]:
    """What lies beside the model, in words."""
    notes = []
    if found.others:
        others = a_few([repr(each) for each in found.others])
        notes.append(f"took the parameters under {found.prefix!r}, left out those under {others}")
    if found.rest:
        notes.append(f"left out {a_few(found.rest)}, which are of no BiFormer")
    return notes
