"""Where in what a trainer saved a model's parameters are, for arrays of any library.

Wrappers around a state dict and prefixes before its names are one thing here: all that was saved
becomes one dict of dotted names, and a model is what lies under one prefix of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from bilevel.protocol import Array

BETWEEN = {
    "_orig_mod",  # torch.compile
    "_checkpoint_wrapped_module",
    "_fsdp_wrapped_module",
    "_parameters",  # the next three: a whole module that was pickled
    "_buffers",
    "_modules",
}
"""Parts of names that wrappers of torch put in, anywhere."""
AVERAGED = {"ema", "shadow", "swa", "averaged"}
TRAINING = ("optim", "scheduler", "scaler")
DEEPEST = 32  # of dicts in dicts: far more than trainers nest


class Found(NamedTuple):
    """A model's parameters and what is beside them."""

    prefix: str
    own: dict[str, Array]
    """What is of the model's modules under the prefix, without the prefix."""
    others: list[str]
    """Other prefixes under which the same model lies."""
    rest: list[str]
    """Names of the other arrays, but for the state of training."""


def flattened(content: Any) -> dict[str, Any]:
    """Everything in nested mappings and lists by its dotted name, each container once.

    >>> flattened({"model": {"module.norm.weight": 1}, "epoch": 2})
    {'model.module.norm.weight': 1, 'epoch': 2}
    """
    flat: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Mapping):
            children = list(value.items())
        elif isinstance(value, (list, tuple)):
            children = list(enumerate(value))
        else:
            flat.setdefault(name, value)
            continue
        if not children:
            flat.setdefault(name, value)
        if id(value) not in seen and depth < DEEPEST:
            seen.add(id(value))
            below = [(_joined(name, str(key)), child, depth + 1) for key, child in children]
            waiting += reversed(below)
    return flat


def find(arrays: Mapping[str, Any], names: Collection[str]) -> Found | None:
    """The model whose parameters have these names; None if there is nothing of it.

    Where there are several, raw parameters come before averaged ones, whole models before parts.
    """
    counts: Counter[str] = Counter()
    for name in arrays:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in names:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    if not counts:
        return None
    most = max(counts.values())
    models = [prefix for prefix in counts if counts[prefix] > most / 2]
    prefix = min(models, key=lambda prefix: (is_averaged(prefix), -counts[prefix]))
    others = [each for each in models if each != prefix]
    modules = {name.split(".")[0] for name in names}

    def is_of(prefix: str, name: str) -> bool:
        return name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in modules

    own = {n.removeprefix(prefix): array for n, array in arrays.items() if is_of(prefix, n)}
    rest = [
        n
        for n in arrays
        if not any(is_of(each, n) for each in models) and _may_be_parameter(n, arrays)
    ]
    return Found(prefix, own, others, rest)


def is_averaged(prefix: str) -> bool:
    """Whether a prefix says that its parameters are averages over training."""
    return not AVERAGED.isdisjoint(re.split(r"[._]", prefix.lower()))


def _may_be_parameter(name: str, arrays: Mapping[str, Any]) -> bool:
    """Whether an array may be a parameter: no single number, nothing of an optimizer."""
    return bool(arrays[name].shape) and not any(word in name for word in TRAINING)


def _joined(name: str, key: str) -> str:
    parts = [part for part in key.split(".") if part not in BETWEEN]
    return ".".join([name, *parts] if name else parts)
