"""What is compared: a row for each mixer in the layout of Swin-T, and for each whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import nn

from bilevel.compare import MIXERS, WHOLE, build


class Subject(NamedTuple):
    """What a row is of."""

    group: str
    """``"mixers"``, in one layout, or ``"models"``, as published."""
    source: str
    """Where it is from."""
    build: Callable[[], nn.Module]
    """A new model for images of 224 x 224."""


SUBJECTS: Mapping[str, Subject] = {
    **{name: Subject("mixers", each.source, partial(build, name)) for name, each in MIXERS.items()},
    **{name: Subject("models", "", each) for name, each in WHOLE.items()},
}
"""All rows by name."""

REFERENCE = "bra"
"""The row that others are measured beside."""
