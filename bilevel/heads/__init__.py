"""Detectors and segmenters on the maps of a backbone.

A head is a torch module of its own; what it needs of a model are maps ``(N, C, H, W)`` at strides
4, 8, 16 and 32, such as :class:`bilevel.models.Backbone` gives. Detectors are torchvision's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bilevel.errors import BackendUnavailable

_HOME = {
    "OFFICIAL": "official",
    "Official": "official",
    "Segmenter": "segmenter",
    "SemanticFPN": "segmentation",
    "UPerNet": "pyramid_pooling",
    "backbone": "official",
    "mask_rcnn": "detection",
    "retinanet": "detection",
    "segmentation_loss": "segmenter",
    "semantic_fpn": "segmenter",
    "upernet": "segmenter",
}
"""Where each name is. torchvision, which takes seconds to import, is imported by what needs it."""

__all__ = [
    "OFFICIAL",
    "Official",
    "Segmenter",
    "SemanticFPN",
    "UPerNet",
    "backbone",
    "mask_rcnn",
    "retinanet",
    "segmentation_loss",
    "semantic_fpn",
    "upernet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bilevel.heads' has no attribute {name!r}")
    try:
        return getattr(import_module(f"bilevel.heads.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"bilevel.heads.{name} needs {error.name}; "
            'install it with: python -m pip install "bilevel[train]"'
        ) from error
