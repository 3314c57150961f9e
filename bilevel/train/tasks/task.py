"""What a model is trained to do, as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bilevel.models import BiFormerConfig
from bilevel.train.data import Batch
from bilevel.train.findings import Findings
from bilevel.train.metrics import Sums

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Task:
    """Pure functions, all that training knows of what it trains.

    A step calls ``targets``, ``outputs`` and ``loss`` in turn, a test ``targets``, ``outputs`` and
    ``measure``. Outputs and targets are whatever these functions agree on: a tensor, or a dict, or
    a list with an entry per image.
    """

    model: Callable[[BiFormerConfig], nn.Module]
    """The module to train, with new weights."""
    targets: Callable[[Batch], Any]
    """What the outputs for a batch should be."""
    outputs: Callable[[nn.Module, Any, Any], Any]
    """From model, images and targets to what the model makes of the images. The model is in
    training or evaluation mode, and may give more in training. Targets are for models that compute
    their loss themselves, as detectors do; None where there are none."""
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Any]]]
    """From outputs and targets in training to the loss, a scalar, and named sums over the images,
    to show: parts of the loss, say. Their tensors need no gradient."""
    measure: Callable[[Any, Any], Mapping[str, Any]]
    """From outputs and targets in evaluation to named sums over the images."""
    summary: Callable[[Sums], dict[str, float]]
    """From the sums over all images to named numbers; the last is the one to judge a model by."""
    describe: Callable[[Any, Sequence[str]], list[str]]
    """From outputs in evaluation and the names of the classes to a few words on each image."""
    draw: Callable[[nn.Module, Iterable[Batch], Sequence[str]], Figure]
    """From a model in evaluation mode, test images and the names of the classes to a figure of what
    the model makes of them."""
    examine: Callable[[nn.Module, Iterable[Batch], Sequence[str]], Findings] | None = None
    """From the same to what the model gets wrong, for tasks that tell classes apart."""
