"""The name and shape of every parameter of a BiFormer, apart from any array library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilevel.errors import WeightsError
from bilevel.models.config import BiFormerConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: BiFormerConfig) -> Shapes:
    """Name and shape of every parameter and buffer.

    Convolutions are ``(out, in, height, width)`` and linear layers ``(out, in)``, as in torch.

    >>> parameter_shapes(BiFormerConfig())["stages.0.0.attention.qkv.weight"]
    (192, 64)
    """
    shapes: Shapes = {}
    width = config.in_chans
    for stage, (dim, depth) in enumerate(zip(config.embed_dims, config.depths, strict=True)):
        shapes |= _under(f"downsamples.{stage}", _downsample(config, stage, width, dim))
        for block in range(depth):
            shapes |= _under(f"stages.{stage}.{block}", _block(config, stage, dim))
        width = dim
    shapes |= _under("norm", _batch_norm(width))
    if config.num_classes:
        shapes |= _under("head", _weight(config.num_classes, width))
    return shapes


def mismatches(expected: Shapes, given: Mapping[str, Any]) -> list[str]:
    """What is missing, left over or of another shape, each in a few words."""
    wrong = [f"missing {name} {shape}" for name, shape in expected.items() if name not in given]
    wrong += [f"left over {name}" for name in given if name not in expected]
    wrong += [
        f"{name} is {tuple(given[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    return wrong


def check_parameters(expected: Shapes, given: Mapping[str, Any], whose: str) -> None:
    """Raise a WeightsError that lists every mismatch."""
    if wrong := mismatches(expected, given):
        raise WeightsError(
            f"expected the {len(expected)} parameters of {whose}, got {len(given)}: "
            + "; ".join(wrong)
        )


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _weight(*shape: int, bias: bool = True) -> Shapes:
    return {"weight": shape, "bias": shape[:1]} if bias else {"weight": shape}


def _batch_norm(dim: int) -> Shapes:
    running: Shapes = {"running_mean": (dim,), "running_var": (dim,), "num_batches_tracked": ()}
    return _weight(dim) | running


def _downsample(config: BiFormerConfig, stage: int, width: int, dim: int) -> Shapes:
    if config.layout == "stl":
        kernel, normalised = (4, dim) if stage == 0 else (2, width)
        conv = _weight(dim, width, kernel, kernel)
        return _under("conv", conv) | _under("norm", _batch_norm(normalised))
    if stage > 0:
        return _under("conv", _weight(dim, width, 3, 3)) | _under("norm", _batch_norm(dim))
    return (
        _under("conv1", _weight(dim // 2, width, 3, 3))
        | _under("norm1", _batch_norm(dim // 2))
        | _under("conv2", _weight(dim, dim // 2, 3, 3))
        | _under("norm2", _batch_norm(dim))
    )


def _block(config: BiFormerConfig, stage: int, dim: int) -> Shapes:
    routed, hidden = config.topk[stage] is not None, dim * config.mlp_ratio
    position = _under("position", _weight(dim, 1, 3, 3)) if config.layout == "biformer" else {}
    return (
        position
        | _under("norm1", _weight(dim))
        | _under("attention.qkv", _weight(3 * dim, dim, bias=routed))
        | _under("attention.lce", _weight(dim, 1, 5, 5))
        | _under("attention.proj", _weight(dim, dim))
        | _under("norm2", _weight(dim))
        | _under("mlp.fc1", _weight(hidden, dim))
        | _under("mlp.fc2", _weight(dim, hidden))
    )
