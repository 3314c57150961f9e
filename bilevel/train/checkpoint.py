"""The state of a run in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.models.tree import check_parameters
from bilevel.train.step import State

MODEL, OPTIMIZER, AVERAGE, SCALER = "model.", "optimizer.", "average.", "scaler."
POSITION = "position"


class Position(NamedTuple):
    """Where a run is, in steps and epochs done, and the settings that brought it there."""

    step: int
    epoch: int
    settings: Mapping[str, Any]
    """As JSON has them."""


def save(path: Path, state: State, epoch: int, settings: Mapping[str, Any]) -> None:
    """Write model, optimizer, average, scaler and position; the old file stays until all is
    written.

    Raises InputError if it cannot be written.
    """
    tensors = {MODEL + name: tensor for name, tensor in state.model.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in moments.items()}
    tensors |= {AVERAGE + name: tensor for name, tensor in (state.average or {}).items()}
    for name, value in state.scaler.state_dict().items():
        tensors[SCALER + name] = torch.tensor(value, dtype=torch.float64)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    position = Position(state.step, epoch, settings)._asdict()
    metadata = {POSITION: json.dumps(position)}  # one entry: of several, the order would be random
    try:
        with replacing(path) as partial:
            save_file(contiguous, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write the checkpoint {path}: {error}") from error


def read(path: Path, device: str) -> tuple[dict[str, Tensor], Position]:
    """All tensors of a checkpoint, and its position.

    Raises InputError if the file is missing or is no checkpoint of a run.
    """
    try:
        with safe_open(path, "pt", device) as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a checkpoint at {path}: {error}") from error
    if POSITION not in metadata:
        raise InputError(f"expected a checkpoint of a run at {path}, got other tensors")
    return tensors, Position(**json.loads(metadata[POSITION]))


def load_model(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the parameters of a checkpoint into a model.

    Raises WeightsError if they are of another one.
    """
    params = _part(tensors, MODEL)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_parameters(shapes, params, f"the model of {path}")
    model.load_state_dict(params)


def restore(state: State, path: Path, device: str) -> tuple[State, Position]:
    """The state as it was saved, and its position."""
    tensors, position = read(path, device)
    load_model(state.model, tensors, path)
    moments: dict[int, dict[str, Any]] = {}
    for key, tensor in _part(tensors, OPTIMIZER).items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    scaling = {name: _number(value) for name, value in _part(tensors, SCALER).items()}
    state.scaler.load_state_dict(state.scaler.state_dict() | scaling)
    average = _part(tensors, AVERAGE) if state.average is not None else None
    return state._replace(step=position.step, average=average), position


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a part, by their names in it."""
    return {k.removeprefix(prefix): tensor for k, tensor in tensors.items() if k.startswith(prefix)}


def _number(value: Tensor) -> float:
    """A number that was an integer as one again."""
    number = float(value)
    return int(number) if number.is_integer() else number
