"""Official checkpoint files to parameters, without running what a file might carry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import InputError
from bilevel.models.config import BiFormerConfig
from bilevel.models.official_names import from_official


def load_official(path: str | Path, config: BiFormerConfig | None = None) -> dict[str, Tensor]:
    """The parameters in an official checkpoint, ``.pth`` or ``.safetensors``, under our names.

    A ``.pth`` file is read with ``weights_only=True``; besides tensors, only the
    ``argparse.Namespace`` that the official training saved is let in.

    Parameters
    ----------
    path
        The file.
    config
        See :func:`from_official`.

    Raises
    ------
    InputError
        If the file is not there, has another ending, or holds more than weights.
    WeightsError
        If the parameters fit no published model, or not ``config``.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a checkpoint file, found none at {path}")
    if path.suffix == ".safetensors":
        return from_official(_read_safetensors(path), config)
    if path.suffix in (".pth", ".pt"):
        return from_official(_read_pickle(path), config)
    raise InputError(f"expected a checkpoint .pth, .pt or .safetensors, got {path}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"expected a safetensors file, {path} is not one: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any content may make the unpickler raise anything
        raise InputError(
            f"expected a checkpoint of tensors and an argparse.Namespace alone, {path} is damaged "
            "or holds other objects, which are not read because they could run code"
        ) from error
