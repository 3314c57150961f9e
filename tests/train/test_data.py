"""Where images come from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bilevel import InputError
from bilevel.train import data
from bilevel.train.config import TrainConfig
from bilevel.train.recipes import DIGITS

CONFIG = TrainConfig(data="", image_size=32, batch_size=4, workers=0)


def test_digits_hold_out_a_fifth_and_share_no_image() -> None:
    source: Any = data.find(replace(DIGITS, image_size=32))
    assert (len(source.train), len(source.test)) == (1437, 360)
    test = {image.tobytes() for image in source.test.images}
    assert test.isdisjoint(image.tobytes() for image in source.train.images)
    labels = np.bincount([label for _, label in source.test])
    assert labels.min() >= 34  # as many of each class as there are


def test_a_digit_read_from_a_file_is_the_digit_of_the_set(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    from bilevel.train import views

    image = (load_digits().images[0] * (255 / 16)).astype(np.uint8)
    Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "digit.png")
    read = data.reader(DIGITS)(tmp_path / "digit.png")
    assert read.shape == (1, 64, 64)
    assert torch.equal(read, views.digit_view(64)(image))


def test_a_folder_of_classes_is_split_by_class(stripes: Path) -> None:
    source: Any = data.find(replace(CONFIG, data=str(stripes)))
    assert list(source.classes) == ["across", "down"]
    assert (len(source.train), len(source.test)) == (16, 4)
    assert sorted(label for _, label in source.test) == [0, 0, 1, 1]
    assert set(source.train.images).isdisjoint(source.test.images)


def test_train_and_val_folders_are_taken_as_they_are(stripes: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shutil.copytree(stripes, root / "train")
    shutil.copytree(stripes, root / "val")
    alone = data.find(replace(CONFIG, data=str(root / "train")))
    shutil.move(root / "val", tmp_path / "elsewhere")
    without_val = data.find(replace(CONFIG, data=str(root)))
    assert without_val.summary() == alone.summary()
    shutil.move(tmp_path / "elsewhere", root / "val")
    (root / "val" / "down" / "0.png").unlink()
    source: Any = data.find(replace(CONFIG, data=str(root)))
    assert (len(source.train), len(source.test)) == (20, 19)
    shutil.rmtree(root / "val" / "down")
    shutil.copytree(stripes / "across", root / "val" / "up")
    with pytest.raises(InputError, match=r"expected the same classes in .*train and .*val"):
        data.find(replace(CONFIG, data=str(root)))


@pytest.mark.parametrize("name", ["digits", "classes", "splits"])
def test_training_images_are_augmented_and_test_images_are_not(
    name: str, stripes: Path, tmp_path: Path
) -> None:
    if name == "splits":
        shutil.copytree(stripes, tmp_path / "train")
        shutil.copytree(stripes, tmp_path / "val")
    folder = tmp_path if name == "splits" else stripes
    config = replace(CONFIG, data=DIGITS.data if name == "digits" else str(folder))
    found: Any = data.find(config)
    by_hand = seen_as_it_is(found.test.images[3], name)
    seen = data.IMAGENET(found.test[3][0]).as_subclass(torch.Tensor)
    off = (
        0.0 if name == "digits" else 1.01 / 255 / min(data.IMAGENET.std)
    )  # resized alike, but once
    torch.testing.assert_close(seen, by_hand, rtol=1e-5, atol=off + 1e-5)
    train, test = (
        torch.stack([part[0][0] for _ in range(4)]) for part in (found.train, found.test)
    )
    assert not torch.equal(train[:2], train[2:])
    assert torch.equal(test, test[:1].expand_as(test))


def seen_as_it_is(image: Any, name: str) -> torch.Tensor:
    """An image of 40 x 40 pixels, or a digit, as the input of a model in testing, by hand."""

    if name == "digits":
        pixels = torch.from_numpy(image)[None].float() / 255
        wide = torch.nn.functional.interpolate(pixels[None], (32, 32), mode="bilinear")[0]
        return (wide - 0.5) / 0.5
    with Image.open(image) as file:
        # 32 / 0.875 is 37 pixels, of which the middle 32 are seen.
        large = file.convert("RGB").resize((37, 37), Image.Resampling.BICUBIC)
    whole = torch.from_numpy(np.array(large)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in data.IMAGENET)
    return (whole[:, 2:34, 2:34] - mean) / std


def test_images_of_all_kinds_are_read_alike(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    view = data.reader(CONFIG)
    Image.fromarray(grey).save(tmp_path / "8.png")
    expected = view(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("16.png", "palette.png", "alpha.png"):
        assert torch.equal(view(tmp_path / name), expected)
    upright = Image.Exif()
    upright[0x0112] = 8  # to be turned by a quarter
    Image.fromarray(np.rot90(grey, -1)).save(tmp_path / "turned.png", exif=upright)
    assert torch.equal(view(tmp_path / "turned.png"), expected)
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match="pixels of mode 'F' have no range"):
        view(tmp_path / "float.tiff")


TRANSPARENT: dict[str, tuple[str, Any]] = {
    "a colour of the palette.png": ("P", 0),
    "an opacity for each colour of the palette.png": ("P", bytes(range(256))),
    "a colour of the palette.gif": ("P", 0),
    "a grey.png": ("L", 0),
    "a grey.gif": ("L", 0),
    "a colour.png": ("RGB", (0, 0, 0)),
    "black.png": ("1", 0),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_has_the_colour_below(name: str, tmp_path: Path) -> None:
    """And nothing warns."""
    mode, transparency = TRANSPARENT[name]
    grey = (np.arange(64 * 64).reshape(64, 64) % 256).astype(np.uint8)
    image = Image.fromarray(grey).convert(mode)
    path, plain = tmp_path / name, tmp_path / f"plain {name}"
    image.save(path, transparency=transparency)
    image.save(plain)
    with Image.open(path) as saved:
        assert "transparency" in saved.info
    for data_name in ("digits", "images"):
        view = data.reader(replace(CONFIG, data=data_name))
        assert torch.equal(view(path), view(plain))


def test_a_class_called_train_is_a_class(stripes: Path, tmp_path: Path) -> None:
    shutil.copytree(stripes / "across", tmp_path / "train")
    shutil.copytree(stripes / "down", tmp_path / "bus")
    assert data.find(replace(CONFIG, data=str(tmp_path))).classes == ["bus", "train"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "expected 'digits' or a folder of images, found no folder at"),
        ([], "expected one folder of images per class"),
        (["a"], "expected one folder of images per class"),
        (["a/0.png"], "two classes or more, in"),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error(
    tmp_path: Path, make: list[str] | None, message: str
) -> None:
    path = tmp_path / "images"
    if make is not None:
        path.mkdir()
        for name in make:
            (path / name.partition("/")[0]).mkdir()
            if "/" in name:
                Image.new("RGB", (8, 8)).save(path / name)
    with pytest.raises(InputError, match=message):
        data.find(replace(CONFIG, data=str(path)))


def test_too_few_images_to_hold_some_out_is_an_error(stripes: Path, tmp_path: Path) -> None:
    shutil.copytree(stripes, tmp_path / "images", ignore=shutil.ignore_patterns("[1-9].png"))
    with pytest.raises(InputError, match="too few images in"):
        data.find(replace(CONFIG, data=str(tmp_path / "images")))


def test_a_class_called_train_may_have_a_folder_of_more(stripes: Path, tmp_path: Path) -> None:
    shutil.copytree(stripes / "across", tmp_path / "train")
    shutil.copytree(stripes / "across", tmp_path / "train" / "more")
    shutil.copytree(stripes / "down", tmp_path / "bus")
    assert data.find(replace(CONFIG, data=str(tmp_path))).classes == ["bus", "train"]


def test_training_images_are_flipped_or_not_and_of_several_sizes() -> None:
    from bilevel.train import views

    torch.manual_seed(0)
    halves = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(20).expand(3, 40, 40)
    view = views.train_view(CONFIG)
    seen = [view(halves).float() for _ in range(40)]
    slopes = [float((image[..., -1] - image[..., 0]).mean()) for image in seen]
    assert min(slopes) < 0 < max(slopes)
    square = np.zeros((8, 8), np.uint8)
    square[3:5, 3:5] = 255
    jitter = views.digit_train_view(DIGITS)
    areas = [float((jitter(square) > 0).sum()) for _ in range(40)]
    assert min(areas) < 0.87 * max(areas)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.bytes = max([self.bytes, *(x.nbytes for x in tensors)])
        return out


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 20_000), (9000, 7), (1, 1), (40, 200)])
def test_very_long_images_take_little_memory(shape: tuple[int, int]) -> None:
    from bilevel.train import views

    image = torch.zeros(3, *shape, dtype=torch.uint8)
    for view in (views.train_view(replace(CONFIG, image_size=224)), views.test_view(224)):
        with Largest() as largest:
            assert view(image).shape == (3, 224, 224)
        assert largest.bytes < 64 * 2**20


@pytest.mark.parametrize("shape", [(2, 100), (101, 2), (5, 200), (5, 51), (32, 48), (300, 20)])
def test_of_long_images_the_middle_is_seen(shape: tuple[int, int]) -> None:
    """As by the official evaluation, which resizes them whole."""
    from torchvision.transforms import v2

    from bilevel.train import views

    rows, columns = (8 * (torch.arange(n) - (n - 1) / 2) for n in shape)  # brighter by 8 a pixel
    image = (128 + rows[:, None] + columns).clamp(0, 255).to(torch.uint8).expand(3, *shape)
    whole = v2.functional.resize(image, [73], v2.InterpolationMode.BICUBIC)
    expected = v2.functional.center_crop(whole, [64, 64])
    difference = (views.test_view(64)(image).int() - expected.int()).abs()
    assert difference.max() <= (0 if max(shape) <= views.LONGEST * min(shape) else 3)
