"""Finds the cases in the files of this folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent


class Case(NamedTuple):
    """What the official code computed in one case."""

    name: str
    facts: Mapping[str, Any]
    """What the JSON says of it."""
    arrays: Mapping[str, np.ndarray]
    """What the npz has of it, by name."""

    @property
    def kind(self) -> str:
        """The layer, without its sizes."""
        return re.sub(r"\d+", "", self.name.partition("/")[0])

    @property
    def measured(self) -> set[str]:
        """What there are arrays of, be they whole or samples."""
        return {re.sub("_(shape|positions|values|mean_std)$", "", name) for name in self.arrays}

    @property
    def numbers(self) -> dict[str, int]:
        """The sizes that the name gives, by their words."""
        return {word: int(n) for word, n in re.findall(r"([a-z]+)(\d+)(?![0-9x])", self.name)}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map."""
        height, width = re.findall(r"(\d+)x(\d+)", self.name)[-1]
        return int(height), int(width)


def documents(pattern: str) -> list[Any]:
    """The contents of all JSON files of such names."""
    return [json.loads(path.read_text()) for path in sorted(HERE.glob(pattern))]


@cache
def arrays() -> dict[str, np.ndarray]:
    """All arrays of all files, by case and name."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(HERE.glob("*.npz")):
        with np.load(path) as file:
            found.update(file)
    return found


def cases() -> Iterator[Case]:
    """All cases of all files."""
    facts: dict[str, Any] = {}
    for each in documents("*.json"):
        facts.update({k: v for k, v in each.items() if isinstance(v, dict) and "input" in v})
    for name, fact in facts.items():
        start = f"{name}/"
        found = {k.removeprefix(start): v for k, v in arrays().items() if k.startswith(start)}
        yield Case(name, fact, found)
