"""Checkpoint files between the names in use: the official ones, those of dense prediction (mm's),
and ours, which are timm's too. Every key that moved, stayed or was left out is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor

from bilevel.errors import InputError, WeightsError
from bilevel.files import replacing
from bilevel.models.checkpoints import read_tensors
from bilevel.models.config import MODELS, BiFormerConfig
from bilevel.models.official_names import ENDS, closest, renamed
from bilevel.models.state_dicts import find
from bilevel.models.tree import check_parameters, parameter_shapes, parameters, tree

Style: TypeAlias = Literal["official", "mm", "bilevel"]
BACKBONE = "backbone."
WRAPPED = {"official": "model", "mm": "state_dict"}
"""The key under which ``torch.save`` files have the parameters."""


class Checkpoint(NamedTuple):
    """The parameters in a file, and where in it they were."""

    config: BiFormerConfig
    params: dict[str, Tensor]
    """By our names. Head and last norm may not be there, as in files of dense prediction."""
    origins: dict[str, str]
    """From our names to the keys of the file, but for counts that old files lack."""
    left_out: list[str]
    """Keys of the other arrays of the file."""


def read(path: Path, name: str | None = None) -> Checkpoint:
    """The model in a file with official names, mm's or ours, under any prefix.

    ``name`` is that of the model; None is the one that the parameters fit. Number of classes and
    channels are those of the parameters. Raises InputError if it is no file of tensors, and
    WeightsError if there is no BiFormer in it.
    """
    everything, _ = read_tensors(path)
    arrays = {key: x for key, x in everything.items() if hasattr(x, "shape")}
    models = MODELS if name is None else {name: MODELS[name]}
    try:
        return _with_our_names(arrays, models) or _with_official_names(arrays, models)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _with_our_names(
    arrays: Mapping[str, Tensor], models: Mapping[str, BiFormerConfig]
) -> Checkpoint | None:
    """None if there is no attention by our names."""
    shapes = [parameter_shapes(config) for config in models.values()]
    found = find(arrays, {name for each in shapes for name in each if ".attention." in name})
    if found is None:
        return None
    prefix = found.prefix
    own = {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
    config = closest(own, models)
    expected = parameter_shapes(config)
    params = {name: own[name] for name in expected if name in own}
    needed = {n: s for n, s in expected.items() if n in params or not n.startswith(ENDS)}
    check_parameters(needed, params, str(config))
    return _checkpoint(arrays, config, params, {name: prefix + name for name in params})


def _with_official_names(
    arrays: Mapping[str, Tensor], models: Mapping[str, BiFormerConfig]
) -> Checkpoint:
    params, _, config, prefix = renamed(arrays, None, models)
    official = {each.name: each.official_name for each in parameters(tree(config))}
    return _checkpoint(arrays, config, params, {n: prefix + official[n] for n in params})


def _checkpoint(
    arrays: Mapping[str, Any],
    config: BiFormerConfig,
    params: dict[str, Tensor],
    origins: dict[str, str],
) -> Checkpoint:
    taken = set(origins.values())
    there = {name: key for name, key in origins.items() if key in arrays}
    return Checkpoint(config, params, there, [key for key in arrays if key not in taken])


def write(checkpoint: Checkpoint, path: Path, style: Style) -> None:
    """Write the parameters by the names of a style, as safetensors or, for any other suffix, by
    ``torch.save``.

    ``"mm"`` is what detectors and segmenters load: ``{"state_dict": ...}``, the official names
    under ``backbone.``, without head and last norm. Raises InputError if it cannot be written.
    """
    names = _targets(checkpoint, style)
    official = {each.name: each.official_shape for each in parameters(tree(checkpoint.config))}
    params = checkpoint.params
    tensors = {
        target: (params[n] if style == "bilevel" else params[n].reshape(official[n])).contiguous()
        for n, target in names.items()
    }
    try:
        with replacing(path) as partial:
            if path.suffix == ".safetensors":
                save_file(tensors, partial, {"format": "pt"})
            else:
                key = WRAPPED.get(style)
                torch.save({key: tensors} if key else tensors, partial)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write the checkpoint {path}: {error}") from error


def told(checkpoint: Checkpoint, style: Style) -> list[str]:
    """A line for each key: whether it stays or moves, is left out, or is made."""
    names = _targets(checkpoint, style)
    lines = []
    for name in checkpoint.params:
        origin, target = checkpoint.origins.get(name), names.get(name)
        if target is None:
            lines.append(f"left out {origin}")
        elif origin is None:  # counts, which old files lack
            lines.append(f"made {target}")
        else:
            lines.append(f"stayed {origin}" if origin == target else f"moved {origin} -> {target}")
    return lines + [f"left out {key}" for key in checkpoint.left_out]


def _targets(checkpoint: Checkpoint, style: Style) -> dict[str, str]:
    """From our names to those of a style, of the parameters that it has."""
    if style == "bilevel":
        return {name: name for name in checkpoint.params}
    official = {each.name: each.official_name for each in parameters(tree(checkpoint.config))}
    if style == "official":
        return {name: official[name] for name in checkpoint.params}
    body = [name for name in checkpoint.params if not name.startswith(ENDS)]
    return {name: BACKBONE + official[name] for name in body}
