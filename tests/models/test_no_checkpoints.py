"""What is no checkpoint: files that are damaged, archives, pages, other objects."""

from __future__ import annotations

import argparse
import gzip
import pickle
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bilevel import InputError, WeightsError, models
from tests.models.checkpoint_files import (
    LONGEST,
    MICRO,
    OFFICIAL,
    TRIALS,
)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "safetensors"])
def test_a_file_cut_anywhere_is_said_to_be(tmp_path: Path, form: str) -> None:
    path = tmp_path / "cut.pth"
    if form == "safetensors":
        save_file(OFFICIAL, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"model": OFFICIAL}))
    else:
        torch.save({"model": OFFICIAL}, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    draw = random.Random(0)
    for cut in [16, len(whole) - 1, *(draw.randrange(16, len(whole)) for _ in range(TRIALS))]:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"expected a .*cut\.pth is (a )?truncated") as error:
            models.load_official(path, MICRO)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < LONGEST


def test_a_damaged_file_is_an_error_or_loads(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    draw = random.Random(0)
    for legacy in (False, True):
        torch.save({"model": OFFICIAL}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for _ in range(TRIALS):
            data = bytearray(whole)
            for _ in range(3):
                data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
            path.write_bytes(data)
            with warnings.catch_warnings(), suppress(InputError, WeightsError):
                warnings.simplefilter("ignore")  # a name that is damaged is a stranger's
                models.load_official(path, MICRO)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "no weights")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "file.py")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("\n<!DOCTYPE html><html></html>"), "is a page of HTML"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda p: p.write_text("no weights here"), "no file of torch.save or safet.*b'no weights"),
        (lambda p: p.write_bytes(gzip.compress(b"a")), "is a gzip archive: unpack it"),
        (tarred, "is a tar archive: unpack it"),
        (zipped, "zip archive, but not one of torch.save"),
        (lambda p: torch.save({"epoch": 3}, p), "holds a dict$"),
        (lambda p: torch.save([1, 2], p), "holds a list$"),
        (lambda p: torch.save(argparse.Namespace(a=1), p), r"holds a argparse\.Namespace, which"),
        (
            lambda p: torch.save({"a": Path("b")}, p),
            r"holds a dict with pathlib\.\S+, not look",
        ),
        (lambda p: torch.save({"model": np.ones(3)}, p), r"with numpy\.\S*_reconstruct, not look"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_checkpoint_has_its_own_sentence(
    tmp_path: Path, write: Callable[[Path], Any], message: str, name: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"expected a checkpoint.*{name} .*{message}") as error:
        models.load_official(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint file, found none at"):
        models.load_official(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="expected a checkpoint file, found none at"):
        models.load_official(tmp_path)
