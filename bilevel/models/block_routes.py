"""Where a model looks: the routes of all its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilevel.errors import ArgumentError
from bilevel.models import biformer
from bilevel.protocol import Array, Routes
from bilevel.registry import describe

if TYPE_CHECKING:
    from bilevel.models.array_layers import ArrayModel
    from bilevel.models.model import BiFormer


def routes(model: BiFormer | ArrayModel, images: Array) -> list[list[Routes | None]]:
    """The :class:`~bilevel.protocol.Routes` of each block of each stage, for images
    ``(N, C, H, W)``; None where attention is full.

    One pass through the model, without gradients. The model stays as it is, and hooks on its
    blocks and stages do not run.

    Parameters
    ----------
    model
        A torch module in eval mode, or what :func:`bind` returns.

    Raises
    ------
    ShapeError
        If images do not have four axes.
    ArgumentError
        If a torch module is in training mode, where a pass would move its running statistics.

    Examples
    --------
    >>> import torch
    >>> from bilevel import models
    >>> model = models.biformer_tiny(num_classes=10).eval()
    >>> found = models.routes(model, torch.zeros(1, 3, 224, 224))
    >>> [len(stage) for stage in found]
    [2, 2, 8, 2]
    >>> found[1][0].index.shape, found[3][0]
    (torch.Size([1, 49, 4]), None)
    """
    biformer.check_images(images)
    if describe(images).library != "torch":
        return biformer.routes(model, images)
    return _torch_routes(model, images)


def _torch_routes(model: Any, images: Array) -> list[list[Routes | None]]:
    import torch

    if model.training:
        raise ArgumentError("expected a model in eval mode, got one in training; call model.eval()")
    with torch.no_grad():
        return biformer.routes(model, images)
