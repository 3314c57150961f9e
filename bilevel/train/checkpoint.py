"""The state of a run in one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bilevel.errors import InputError
from bilevel.train.files import replacing
from bilevel.train.step import State

MODEL, OPTIMIZER = "model.", "optimizer."


def save(path: Path, state: State, epoch: int) -> None:
    """Write model and optimizer, and how many epochs are done; the old file stays until then."""
    tensors = {MODEL + name: tensor for name, tensor in state.model.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in moments.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(contiguous, partial, {"epoch": str(epoch), "step": str(state.step)})


def load(path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a checkpoint, and its epoch and step.

    Raises InputError if the file is missing or is no safetensors file.
    """
    try:
        with safe_open(path, "pt", device) as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata()
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a checkpoint at {path}: {error}") from error


def model_parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a checkpoint that ``model.load_state_dict`` takes."""
    return {k.removeprefix(MODEL): v for k, v in tensors.items() if k.startswith(MODEL)}


def restore(state: State, path: Path, device: str) -> tuple[State, int]:
    """The state as it was saved, and the number of epochs done."""
    tensors, metadata = load(path, device)
    state.model.load_state_dict(model_parameters(tensors))
    moments: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith(OPTIMIZER):
            index, name = key.removeprefix(OPTIMIZER).split(".")
            moments.setdefault(int(index), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return state._replace(step=int(metadata["step"])), int(metadata["epoch"])
