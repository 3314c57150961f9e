"""BiFormer: the published models as torch modules, and the same over plain arrays.

What needs torch imports it when it is first used; ``apply`` and the configs need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bilevel.errors import BackendUnavailable
from bilevel.models.apply import apply, bind
from bilevel.models.block_routes import routes
from bilevel.models.config import PUBLISHED, BackboneConfig, BiFormerConfig
from bilevel.models.official_names import from_official, to_official
from bilevel.models.tree import parameter_shapes

__all__ = [
    "PUBLISHED",
    "Backbone",
    "BackboneConfig",
    "BiFormer",
    "BiFormerConfig",
    "apply",
    "biformer_base",
    "biformer_small",
    "biformer_stl",
    "biformer_stl_nchw",
    "biformer_tiny",
    "bind",
    "from_official",
    "load_official",
    "parameter_shapes",
    "routes",
    "to_official",
]

_NEEDS_TORCH = {
    "Backbone": "backbone",
    "BiFormer": "model",
    "load_official": "checkpoints",
} | dict.fromkeys(PUBLISHED, "published")


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'bilevel.models' has no attribute {name!r}")
    try:
        return getattr(import_module(f"bilevel.models.{_NEEDS_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"bilevel.models.{name} needs {error.name}; "
            'install it with: python -m pip install "bilevel[torch]"'
        ) from error
