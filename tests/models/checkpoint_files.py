"""Parameters of a small model under our names and under the official ones, to write into files."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from bilevel import models
from bilevel.models import BiFormerConfig

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))
MICRO = BiFormerConfig(
    depths=(1, 1), embed_dims=(8, 16), topk=(1, None), head_dim=8, mlp_ratio=1, num_classes=10
)
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".PTH", ".safetensors", ".SAFETENSORS", "")
LONGEST = 1200  # characters of a message, with the config in it

Params = dict[str, Tensor]


def micro(config: BiFormerConfig = MICRO, seed: int = 0) -> tuple[Params, Params]:
    """Parameters under our names, and the same under the official ones."""
    generator = torch.Generator().manual_seed(seed)
    ours = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in models.parameter_shapes(config).items()
    }
    return ours, dict(models.to_official(ours, config))


OURS, OFFICIAL = micro()


def assert_equal(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [found[name].dtype for name in expected] == [x.dtype for x in expected.values()]


def prefixed(prefix: str, params: Params) -> Params:
    return {prefix + name: value for name, value in params.items()}
