"""A small model that comes with bilevel, so that a picture needs no training: it was trained on
scikit-learn's handwritten digits, by ``docs/make_sample.py``. Needs torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, NamedTuple

from bilevel.models import BiFormerConfig

if TYPE_CHECKING:
    from PIL import Image

    from bilevel.models.model import BiFormer

FOLDER = files("bilevel.visual") / "sample"


class Sample(NamedTuple):
    """The model in evaluation mode, and what is known of it."""

    model: BiFormer
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    """By timm's names."""


def about() -> dict[str, Any]:
    """What is written beside the weights: architecture, preprocessing, and how they were made."""
    return json.loads((FOLDER / "digits.json").read_text("utf-8"))


def load() -> Sample:
    """The model. Its weights are in half precision on the disk, and in float32 here."""
    from safetensors.torch import load_file

    from bilevel.models.model import BiFormer

    known = about()
    model = BiFormer(BiFormerConfig.from_dict(known["architecture"]))
    with as_file(FOLDER / "digits.safetensors") as path:
        model.load_state_dict(load_file(path))
    return Sample(model.eval(), tuple(known["labels"]), known["preprocessing"])


def digit(number: int = 0) -> Image.Image:
    """One of scikit-learn's digits, 8 x 8 pixels, by its number from 0 to 1796.

    Raises BackendUnavailable if scikit-learn is not there.
    """
    from PIL import Image

    return Image.fromarray(digits()[0][number])


def digits() -> tuple[Any, Any]:
    """All digits, uint8 ``(1797, 8, 8)``, and their labels ``(1797,)``."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) * (255 / 16)).astype("uint8"), labels
