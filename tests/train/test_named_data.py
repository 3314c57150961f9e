"""Data by name: Fashion-MNIST wherever it lies, and what timm finds."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torchvision import datasets

from bilevel import InputError
from bilevel.train import data, fashion_mnist, named, start
from bilevel.train.config import TrainConfig
from bilevel.train.loader import InOrder
from bilevel.train.recipes import config
from bilevel.train.run import find_data, load

RUN = config("fashion-mnist", "fashion-mnist", image_size=32, epochs=1, batch_size=4)


def idx(array: Any) -> bytes:
    """An array of bytes as MNIST has it."""
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def clothes(folder: Path, packed: bool = True, images: int = 20) -> Path:
    """A folder as Fashion-MNIST's, of so many random images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, (images, 28, 28), np.uint8)
        labels = np.arange(images, dtype=np.uint8) % 10
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_clothes_are_read_wherever_they_lie(packed: bool, below: str, tmp_path: Path) -> None:
    clothes(tmp_path / "there" / below, packed)
    found: Any = data.find(replace(RUN, data_dir=tmp_path / "there"))
    assert (len(found.train), len(found.test), found.in_chans) == (20, 20, 1)
    assert found.classes[9] == "ankle boot"
    assert found.notes == [f"Fashion-MNIST in {tmp_path / 'there' / below}"]
    (batch,) = InOrder(found, replace(RUN, batch_size=20))
    assert batch.labels.tolist() == [*range(10), *range(10)]
    assert batch.images.shape == (20, 1, 32, 32)
    assert -1 <= float(batch.images.min()) < -0.9
    assert 0.9 < float(batch.images.max()) <= 1
    theirs = datasets.FashionMNIST if below and not packed else None
    if theirs:
        other = theirs(str(tmp_path / "there"), train=True)
        images = np.stack([found.train.images[i] for i in range(20)])
        assert np.array_equal(other.data.numpy(), images)


def test_a_flip_is_all_that_is_done_to_clothes(tmp_path: Path) -> None:
    clothes(tmp_path / "there")
    found: Any = data.find(replace(RUN, data_dir=tmp_path / "there", hflip=0.0))
    whole = data.find(replace(RUN, data_dir=tmp_path / "there", hflip=1.0)).train[3][0]
    assert torch.equal(found.train[3][0].flip(-1), whole)


def test_clothes_that_are_not_there_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    with pytest.raises(InputError, match=r"in .*debian or data: install .* --data-dir, or let tor"):
        data.find(RUN)
    clothes(tmp_path / "debian")
    assert data.find(RUN).notes == [f"Fashion-MNIST in {tmp_path / 'debian'}"]

    def fetch(root: str, download: bool) -> None:
        assert download
        clothes(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    fetched = replace(RUN, data_dir=tmp_path / "new", dataset_download=True)
    assert data.find(fetched).notes == [f"Fashion-MNIST in {tmp_path / 'new/FashionMNIST/raw'}"]

    def fail(root: str, download: bool) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    with pytest.raises(InputError, match=r"cannot fetch Fashion-MNIST into .*: no network"):
        data.find(replace(fetched, data_dir=tmp_path / "newer"))


def lack(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def hold(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lack, "expected t10k-labels-idx1-ubyte.gz in"),
    "no gzip": (hold("t10k-images-idx3-ubyte.gz", b"x" * 99), "as MNIST has them in"),
    "half": (hold("t10k-images-idx3-ubyte.gz", gzip.compress(b"x" * 99)[:40]), "as MNIST has"),
    "broken": (
        hold("t10k-images-idx3-ubyte.gz", gzip.compress(b"x" * 99)[:12] + b"y" * 40),
        "as MNIST has them in",
    ),
    "empty": (hold("t10k-images-idx3-ubyte.gz", gzip.compress(b"")), "as MNIST has them in"),
    "short": (
        hold("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((9, 28, 28), np.uint8))[1:])),
        "as MNIST has them in",
    ),
    "size": (
        hold("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((20, 9, 9), np.uint8)))),
        r"expected images \(N, 28, 28\) and as many labels of train",
    ),
    "labels": (
        hold("train-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(20, 10, np.uint8)))),
        "expected labels to 9 of train",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_clothes_are_one_line(damage: str, tmp_path: Path) -> None:
    do, message = DAMAGES[damage]
    do(clothes(tmp_path / "there"))
    with pytest.raises(InputError, match=message):
        data.find(replace(RUN, data_dir=tmp_path / "there"))


def test_a_run_on_clothes_is_tested_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clothes(tmp_path / "there")
    run = replace(RUN, data_dir=Path("there"), aa="rand-m9-inc1", reprob=0.5, mixup=0.5)
    test = start.train(run, Console(quiet=True))
    assert list(test) == ["loss", "accuracy"]
    saved, _ = load(Path("runs", "fashion-mnist-1"))
    monkeypatch.chdir("/")
    assert saved.config.data_dir == tmp_path / "there"
    images: Any = find_data(saved).test
    Image.fromarray(images.images[5]).save(tmp_path / "boot.png")
    seen = data.reader(saved.config)(str(tmp_path / "boot.png"))
    assert torch.equal(seen, data.GREY(images[5][0]))


def two_splits(root: Path, stripes: Path) -> Path:
    for split in ("train", "val"):
        shutil.copytree(stripes, root / split)
    return root


def test_a_name_of_timm_is_a_data_set_of_its(stripes: Path, tmp_path: Path) -> None:
    root = two_splits(tmp_path / "photos", stripes)
    run = TrainConfig(
        "torch/image_folder", "biformer_micro", image_size=32, epochs=1, batch_size=4, workers=1,
        data_dir=root, out=tmp_path / "run",
    )  # fmt: skip
    start.train(run, Console(quiet=True))
    saved, _ = load(tmp_path / "run")
    assert saved.data == (["across", "down"], 3, 20, 20)
    found = data.find(saved.config)
    folder = data.find(replace(run, data=str(root), data_dir=None))
    first, same = found.test[7], folder.test[7]
    assert first[1] == same[1] == 0
    assert torch.equal(first[0], same[0])
    originals = data.originals(saved.config)
    assert len(originals.names) == 20
    assert originals.images[0].shape == (3, 40, 40)


def test_cifar_is_found_where_torchvision_puts_it(tmp_path: Path) -> None:
    import pickle

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        entry = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(entry))
    classes = [f"thing {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        found: Any = data.find(TrainConfig("torch/cifar10", image_size=32, data_dir=tmp_path))
    assert (len(found.train), len(found.test), found.in_chans) == (20, 4, 3)
    assert found.classes == classes
    assert found.train[0][0].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "torch/cifar10",
            "cannot read 'train' of 'torch/cifar10' in .*by timm: Dataset not found",
        ),
        ("torch/nothing", "Unknown torchvision dataset nothing"),
        ("wds/photos", "cannot read 'train' of 'wds/photos' in .* by timm: .*--data-dir names"),
    ],
)
def test_what_timm_does_not_find_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        data.find(TrainConfig(name, data_dir=tmp_path))


def test_a_folder_goes_before_a_name(stripes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert named.is_name("torch/photos")
    assert not data.is_folder("torch/photos")
    shutil.copytree(stripes, tmp_path / "torch" / "photos")
    assert data.is_folder("torch/photos")
    assert data.find(TrainConfig("torch/photos")).classes == ["across", "down"]
    assert not any(map(data.is_folder, ("digits", "fashion-mnist", "hfds/owner/name")))
    assert all(map(data.is_folder, ("./digits", "photos", "torch", "torch/", "/torch/x")))
