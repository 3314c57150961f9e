"""Files that hold a BiFormer, in all the forms in which trainers and people leave them."""

from __future__ import annotations

import argparse
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bilevel import InputError, WeightsError, models
from tests.models.checkpoint_files import (
    LONGEST,
    MICRO,
    SUFFIXES,
    TRIALS,
    Params,
    assert_equal,
    micro,
    prefixed,
)


class Composed:
    """A file with wrappers, prefixes, neighbours and metadata drawn at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.expected, params = micro()
        self._without_counts_or_ends(params)
        prefixes = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.trunk.")
        for _ in range(self.draw.randrange(4)):
            params = prefixed(self.draw.choice(prefixes), params)
        self.content: Any = params | self._neighbours()
        averaged = self.draw.random() < 0.5
        for _ in range(self.draw.randrange(4)):
            self._wrap(averaged)

    def _without_counts_or_ends(self, params: Params) -> None:
        if self.draw.random() < 0.3:
            for name in [name for name in params if name.endswith("num_batches_tracked")]:
                del params[name]
            for name, value in self.expected.items():
                if name.endswith("num_batches_tracked"):
                    self.expected[name] = torch.zeros_like(value)
        ends = self.draw.choice(((), (), ("head.",), ("head.", "norm.")))
        for group in (params, self.expected):
            for name in [name for name in group if name.startswith(tuple(ends))] if ends else ():
                del group[name]

    def _neighbours(self) -> Params:
        names = (
            "decode_head.conv_seg.weight",
            "neck.fpn.0.conv.weight",
            "aux_head.norm.bias",
            "extra_norms.0.weight",
            "backbone.extra_norms.1.bias",
            "roi_head.head.weight",
        )
        return {name: torch.ones(3) for name in names if self.draw.random() < 0.3}

    def _wrap(self, averaged: bool) -> None:
        """One more dict around; with an averaged copy beside it, or named as one itself."""
        keys = ("model", "state_dict", "module", "net", "state", "teacher")
        self.content = {
            self.draw.choice(keys if averaged else (*keys, "ema", "model_ema")): self.content
        }
        if self.draw.random() < 0.3:
            self.content = {"epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}} | self.content
        if averaged:
            copy = {
                self.draw.choice(("state_dict_ema", "ema")): prefixed("module.", micro(seed=1)[1])
            }
            self.content = copy | self.content if self.draw.random() < 0.5 else self.content | copy
        if self.draw.random() < 0.3:
            self.content["args"] = argparse.Namespace(out=Path("runs"), lr=np.float64(0.1))

    def save(self, folder: Path) -> Path:
        path = folder / f"file{self.draw.choice(SUFFIXES)}"
        how = self.draw.choice(("zip", "legacy", "pickle", "safetensors"))
        if how == "safetensors":
            save_file(_flat(self.content), path)
        elif how == "pickle":
            path.write_bytes(pickle.dumps(self.content, self.draw.randrange(2, 6)))
        else:
            with path.open("wb") as file:
                torch.save(self.content, file, _use_new_zipfile_serialization=how == "zip")
        return path


def _flat(content: dict[Any, Any], name: str = "") -> Params:
    """As people write a nested checkpoint as safetensors: dotted names, tensors alone."""
    found: Params = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{name}{key}.")
        elif isinstance(value, Tensor):
            found[f"{name}{key}"] = value.clone()
    return found


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_file_composed_at_random_loads(seed: int, tmp_path: Path) -> None:
    composed = Composed(seed)
    path = composed.save(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = models.load_official(path, MICRO)
    assert len(caught) <= 1
    assert all(len(str(each.message)) < LONGEST for each in caught)
    assert_equal(found, composed.expected)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_model_with_something_wrong_is_one_short_error(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    _, params = micro()
    body = [name for name in params if not name.startswith(("head.", "norm.", "extra"))]
    body = [name for name in body if not name.endswith("num_batches_tracked")]
    wrong = draw.sample(body, draw.choice((1, 2, 20)))
    for name in wrong:
        value = params.pop(name)
        if draw.random() < 0.5:
            params[name] = value[:-1]
        elif draw.random() < 0.5:
            params[f"stages.0.{name}"] = value
    torch.save({"model": params}, tmp_path / "model.pth")
    with pytest.raises(WeightsError) as error:
        models.load_official(tmp_path / "model.pth", MICRO)
    message = str(error.value)
    assert len(message) < LONGEST
    assert sum(name in message for name in wrong) >= min(len(wrong), 5)
    if len(wrong) == 20:
        assert " more" in message


def test_a_file_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.pth"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refused)  # to root, all files are open
    with pytest.raises(InputError, match=r"cannot read the checkpoint .*Permission denied"):
        models.load_official(path)
