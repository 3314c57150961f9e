"""What the paper's detectors and segmenters have for a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from bilevel.arguments import choice
from bilevel.errors import ArgumentError
from bilevel.models.backbone import Backbone
from bilevel.models.config import MODELS, BackboneConfig
from bilevel.protocol import Backend

HeadName: TypeAlias = Literal["retinanet", "mask_rcnn", "semantic_fpn", "upernet"]


class Official(NamedTuple):
    """The backbone of a head, by the official configs."""

    regions: int
    """On each axis of maps, of all routed stages."""
    drop_path: Mapping[str, float]
    """By the name of the model."""
    out_indices: tuple[int, ...]
    """The stages that the head takes maps of."""
    norm_eval: bool
    """Whether batch normalisation stays in evaluation mode in training."""


_ALL = (0, 1, 2, 3)
OFFICIAL: Mapping[HeadName, Official] = {
    "retinanet": Official(16, {"biformer_small": 0.2, "biformer_base": 0.3}, (1, 2, 3), True),
    "mask_rcnn": Official(16, {"biformer_small": 0.2, "biformer_base": 0.3}, _ALL, True),
    "semantic_fpn": Official(8, {"biformer_small": 0.15, "biformer_base": 0.3}, _ALL, False),
    "upernet": Official(8, {"biformer_small": 0.3, "biformer_base": 0.4}, _ALL, False),
}
"""By the name of the head."""


def backbone(
    model: str, head: HeadName, *, backend: str | Backend | None = None, **changes: Any
) -> Backbone:
    """The backbone of a head as the paper has it: regions 16 for detection and 8 for segmentation,
    the drop path of the official configs, the stages that the head takes.

    Parameters
    ----------
    model
        The name of a model, such as ``"biformer_small"``. Where the official configs have none for
        it, the drop path is that of its classifier; ``"biformer_micro"``, whose maps are small,
        keeps its regions.
    head
        ``"retinanet"``, ``"mask_rcnn"``, ``"semantic_fpn"`` or ``"upernet"``.
    backend
        What computes the attention; see :func:`bilevel.bra`.
    changes
        Fields of :class:`bilevel.models.BackboneConfig` that are to be others, or ``norm_eval``.

    Raises
    ------
    ArgumentError
        If there is no such model, head or field.

    Examples
    --------
    >>> config = backbone("biformer_tiny", "upernet", in_chans=4).config
    >>> config.regions, config.in_chans
    (8, 4)
    """
    published = MODELS[choice("model", model, tuple(MODELS))]
    official = OFFICIAL[choice("head", head, get_args(HeadName))]
    norm_eval = changes.pop("norm_eval", official.norm_eval)
    config = replace(
        BackboneConfig.of(published, official.out_indices),
        regions=published.regions if model == "biformer_micro" else official.regions,
        drop_path=official.drop_path.get(model, published.drop_path),
    )
    if unknown := [name for name in changes if not hasattr(config, name)]:
        raise ArgumentError(
            f"expected fields of a BackboneConfig or norm_eval, got {', '.join(unknown)}"
        )
    return Backbone(replace(config, **changes), norm_eval=norm_eval, backend=backend)
