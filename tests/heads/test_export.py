"""Backbones of detectors and segmenters as files for other runtimes, for images of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from bilevel import heads
from bilevel.export import export
from bilevel.models import Backbone, BiFormerConfig


def backbone() -> Backbone:
    """Of two stages, one of them routed: each block takes seconds to export."""
    torch.manual_seed(0)
    return Backbone(
        BiFormerConfig(
            depths=(1, 1), embed_dims=(8, 16), head_dim=8, regions=2, topk=(2, None), mlp_ratio=1
        )
    )


MODELS: dict[str, Callable[[], Any]] = {
    "retinanet": lambda: heads.retinanet(backbone(), 2, pyramid_channels=8).backbone,
    "mask_rcnn": lambda: heads.mask_rcnn(backbone(), 2, pyramid_channels=8).backbone,
    "semantic_fpn": lambda: heads.semantic_fpn(backbone(), 3, channels=8, pyramid_channels=8),
    "upernet": lambda: heads.upernet(backbone(), 3, channels=8),
}
OUTPUTS = {
    "retinanet": ["map_0", "map_1", "map_p6", "map_p7"],
    "mask_rcnn": ["map_0", "map_1", "map_pool"],
    "semantic_fpn": ["logits"],
    "upernet": ["logits"],
}


@pytest.mark.parametrize("name", MODELS)
def test_onnx_of_any_size(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().eval()
    checked = export(model, tmp_path / "model.onnx", "onnx")
    assert len({size[1:] for size in checked.sizes}) == 3
    assert checked.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [each.name for each in session.get_outputs()] == OUTPUTS[name]
