"""The whole state of a run in one safetensors file: any tool opens it, and no pickle is in it.

Parameters, and what the optimizer keeps of each, go by their names. A state that is split over
processes is written whole, so another number of them can go on from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.models.tree import check_parameters
from bilevel.train.distributed import split_like, whole_tensor
from bilevel.train.metrics import Sums
from bilevel.train.step import State

MODEL, AVERAGE, SUMS = "model.", "average.", "sums."
OPTIMIZER, GROUPS = "optimizer.", "groups."
POSITION = "position"
KEPT = 3
"""Checkpoints that are kept beside the best one."""

Numbers = Mapping[str, Any]


class Position(NamedTuple):
    """Where a run is, in steps and epochs done, and the settings that brought it there."""

    step: int
    epoch: int
    """Epochs that were tested too, and have a row in the table."""
    settings: Mapping[str, Any]
    """As JSON has them."""
    images: int = 0
    """Images of the epoch that is under way, of which the file has sums."""
    groups: Sequence[Numbers] = ()
    """Numbers of the optimizer's groups: some count their steps there."""
    scaler: Numbers | None = None


class Content(NamedTuple):
    """What a checkpoint is made of."""

    tensors: Mapping[str, Tensor]
    position: Position


def content(state: State, epoch: int, settings: Mapping[str, Any], sums: Sums | None) -> Content:
    """What is to be saved; ``sums`` are those of an epoch that is under way. All processes call it,
    since a state that is split over them comes together in it."""
    tensors: dict[str, Any] = _named(MODEL, state.model.state_dict())
    names = _names(state)
    kept = state.optimizer.state_dict()
    for index, moments in kept["state"].items():
        tensors |= _named(f"{OPTIMIZER}{names[index]}.", moments)
    groups = kept["param_groups"]
    for i, group in enumerate(groups):
        held = {name: value for name, value in group.items() if isinstance(value, Tensor)}
        tensors |= _named(f"{GROUPS}{i}.", held)
    tensors |= _named(AVERAGE, state.average or {})
    tensors |= _named(SUMS, sums.values if sums else {})
    whole = {name: whole_tensor(torch.as_tensor(value)) for name, value in tensors.items()}
    numbers = [{k: v for k, v in group.items() if _is_number(v)} for group in groups]
    images = int(sums.images) if sums else 0
    scaler = state.scaler.state_dict()
    return Content(whole, Position(state.step, epoch, settings, images, numbers, scaler))


def write(path: Path, content: Content) -> None:
    """Write a checkpoint, whole or not at all. Raises InputError if that cannot be."""
    tensors = {name: tensor.contiguous() for name, tensor in content.tensors.items()}
    # One entry: of several, the order would be random.
    metadata = {POSITION: json.dumps(content.position._asdict())}
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write the checkpoint {path}: {error}") from error


def read(path: Path, device: str) -> Content:
    """All tensors of a checkpoint, and its position.

    Raises InputError if the file is missing, not whole, or no checkpoint of a run.
    """
    try:
        with safe_open(path, "pt", device) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a checkpoint at {path}: {error}") from error
    return Content(tensors, read_position(path))


def read_position(path: Path) -> Position:
    """The position of a checkpoint. Raises what :func:`read` does."""
    try:
        with safe_open(path, "pt", "cpu") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a checkpoint at {path}: {error}") from error
    if POSITION not in metadata:
        raise InputError(f"expected a checkpoint of a run at {path}, got other tensors")
    return Position(**json.loads(metadata[POSITION]))


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the parameters of a checkpoint into a model.

    Raises WeightsError if they are of another one.
    """
    params, there = _part(tensors, MODEL), model.state_dict()
    check_parameters({k: tuple(v.shape) for k, v in there.items()}, params, f"the model of {path}")
    model.load_state_dict(
        {name: split_like(tensor, there[name]) for name, tensor in params.items()}
    )


def restore(state: State, saved: Content, path: Path) -> tuple[State, Sums | None]:
    """The state as it was saved, and the sums of the epoch that was under way."""
    load_model(state.model, saved.tensors, path)
    names, parameters = _names(state), dict(state.model.named_parameters())
    index = {name: i for i, name in enumerate(names)}
    moments: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(names))}
    for key, tensor in _part(saved.tensors, OPTIMIZER).items():
        of, _, name = key.rpartition(".")
        moments[index[of]][name] = split_like(tensor, parameters[of])
    groups = [
        group | dict(numbers) | _part(saved.tensors, f"{GROUPS}{i}.")
        for i, (group, numbers) in enumerate(
            zip(state.optimizer.state_dict()["param_groups"], saved.position.groups, strict=True)
        )
    ]
    known = {i: each for i, each in moments.items() if each}
    state.optimizer.load_state_dict({"state": known, "param_groups": groups})
    state.scaler.load_state_dict(dict(saved.position.scaler or {}))
    average = state.average and {
        name: split_like(tensor, state.average[name])
        for name, tensor in _part(saved.tensors, AVERAGE).items()
    }
    values, images = _part(saved.tensors, SUMS), saved.position.images
    sums = Sums(images, values) if images else None
    return state._replace(step=saved.position.step, average=average), sums


def path_of(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return folder / f"step-{step}.safetensors"


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the newest first."""
    matches = (re.fullmatch(r"step-(\d+)\.safetensors", each.name) for each in folder.glob("*"))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in a folder that is whole, None if there is none; and what is to be
    said of newer ones, which are not."""
    notes = []
    for step in steps(folder):
        path = path_of(folder, step)
        try:
            read_position(path)
        except InputError as error:
            notes.append(f"passed over a checkpoint that is not whole: {error}")
        else:
            return path, notes
    return None, notes


def prune(folder: Path, best: int | None) -> None:
    """Delete checkpoints but the newest few and the one of the best step."""
    for step in steps(folder)[KEPT:]:
        if step != best:
            path_of(folder, step).unlink(missing_ok=True)


def _names(state: State) -> list[str]:
    """The names of parameters, in the order in which the optimizer counts them."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [names[id(p)] for group in state.optimizer.param_groups for p in group["params"]]


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a part, by their names in it."""
    return {k.removeprefix(prefix): tensor for k, tensor in tensors.items() if k.startswith(prefix)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
