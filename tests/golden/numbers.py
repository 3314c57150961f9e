"""Numbers that the official implementation computed, and how to set up the same model."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.models import PUBLISHED, BiFormerConfig, from_official

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "state_dict_keys.json").read_text())
GRAD_NORMS = json.loads((HERE / "micro_grad_norms.json").read_text())
DENSE_KEYS = json.loads((HERE / "dense" / "dense_keys.json").read_text())
TINY = json.loads((HERE / "tiny.json").read_text())["biformer_tiny"]

_MICRO: dict[str, Any] = {"depths": (1, 1, 2, 1), "embed_dims": (16, 32, 64, 128), "head_dim": 16}
CONFIGS = PUBLISHED | {
    "micro": BiFormerConfig(num_classes=10, **_MICRO),
    "micro_stl_nchw": BiFormerConfig(
        num_classes=10, mlp_ratio=4, layout="stl", variant="nchw", **_MICRO
    ),
}


def micro(case: str) -> dict[str, np.ndarray]:
    """What the official code computed in one case, by name."""
    with np.load(HERE / "micro.npz") as arrays:
        return {k.removeprefix(f"{case}/"): v for k, v in arrays.items() if k.startswith(case)}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def official_state_dict(name: str) -> dict[str, np.ndarray]:
    """The official parameters of a model, float64."""
    return {key: parameter(key, shape) for key, shape in KEYS[name].items()}


def dense_cases() -> dict[str, dict[str, np.ndarray]]:
    """What the official backbones computed for dense prediction, arrays by name, of every case in
    every file: ``dense_detection_micro/64x96``."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted((HERE / "dense").glob("*.npz")):
        with np.load(path) as arrays:
            for key, value in arrays.items():
                case, name = key.split("/", 1)
                found.setdefault(f"{path.stem}/{case}", {})[name] = value
    return found


def dense_state_dict(name: str) -> dict[str, np.ndarray]:
    """The official parameters of a backbone for dense prediction, float64."""
    return {key: parameter(key, shape) for key, shape in DENSE_KEYS[name]}


def parameters(name: str) -> dict[str, np.ndarray]:
    """The same under our names."""
    return from_official(official_state_dict(name), CONFIGS[name])


def parameter(name: str, shape: list[int]) -> np.ndarray:
    """The official parameter of a name, float64."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if leaf == "running_var":
        value = 1.0 + 0.2 * np.tanh(z)
    elif leaf in ("running_mean", "bias"):
        value = 0.1 * z
    elif len(shape) == 1:  # a norm's weight
        value = 1.0 + 0.1 * z
    else:
        value = 0.5 * z / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32).astype(np.float64)
