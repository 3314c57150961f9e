"""Folders of images with label maps, in the layouts of ADE20K and VOC, right and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bilevel import InputError
from bilevel.train.dense.label_pictures import VOC, find, read_labels

SIZE = (6, 8)
LABELS = np.arange(48).reshape(SIZE) % 4


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(path)


def label_map(path: Path, labels: Any = LABELS, dtype: Any = np.uint8) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels).astype(dtype)).save(path)
    return str(path)


def ade(root: Path) -> Path:
    for split, count in (("training", 3), ("validation", 2)):
        for i in range(count):
            picture(root / "images" / split / f"{i}.jpg")
            label_map(root / "annotations" / split / f"{i}.png")
    return root


def voc(root: Path) -> Path:
    for i in range(5):
        picture(root / "JPEGImages" / f"{i}.jpg")
    for i in range(4):  # not all have label maps
        label_map(root / "SegmentationClass" / f"{i}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n3\n")
    (lists / "val.txt").write_text("1\n")
    return root


def own(root: Path) -> Path:
    for i in range(10):
        picture(root / "images" / f"{i}.png")
        label_map(root / "masks" / f"{i}.png")
    return root


def test_ade20k(tmp_path: Path) -> None:
    found = find(ade(tmp_path))
    assert (len(found.classes), len(found.train), len(found.test)) == (150, 3, 2)
    assert found.reduce_zero_label
    labels = read_labels(found.train[0].labels, SIZE, 150, found.reduce_zero_label)
    assert np.array_equal(labels.numpy(), np.where(LABELS == 0, 255, LABELS - 1))
    assert [Path(path).stem for path in found.train[1]] == ["1", "1"]
    assert "train: 3 images" in found.notes[0]


def test_voc(tmp_path: Path) -> None:
    found = find(voc(tmp_path))
    assert found.classes == list(VOC)
    assert [Path(pair.image).name for pair in found.train] == ["0.jpg", "2.jpg", "3.jpg"]
    assert [Path(pair.labels).name for pair in found.test] == ["1.png"]
    assert not found.reduce_zero_label


def test_a_folder_without_splits(tmp_path: Path) -> None:
    found = find(own(tmp_path))
    assert (len(found.classes), len(found.train), len(found.test)) == (4, 8, 2)
    assert not {*found.train} & {*found.test}
    assert find(tmp_path) == found
    (tmp_path / "classes.txt").write_text("sky\nsea\n\nland\nship\n")
    assert find(tmp_path).classes == ["sky", "sea", "land", "ship"]
    assert len(find(tmp_path, reduce_zero_label=True).train) == 8


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.uint8, "a.png"), (np.uint16, "a.png"), (np.int32, "a.tif")]
)
def test_maps_of_any_depth(dtype: Any, name: str, tmp_path: Path) -> None:
    path = label_map(tmp_path / name, LABELS, dtype)
    assert np.array_equal(read_labels(path, SIZE, 4).numpy(), LABELS)


def test_a_palette_is_no_color_and_255_is_no_label(tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint8)
    labels[0] = 255
    image = Image.fromarray(labels)
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P"
    for reduce in (False, True):
        found = read_labels(str(tmp_path / "a.png"), SIZE, 4, reduce)
        assert bool((found[0] == 255).all())


def rgb(path: Path) -> str:
    picture(path)
    return str(path)


def text(path: Path) -> str:
    path.write_text("no picture")
    return str(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: label_map(p, LABELS.T), r"height and width \(6, 8\), got \(8, 6\)"),
        (rgb, "expected the label map .* a number for each pixel, got a picture of mode RGB"),
        (text, "cannot read the label map .*bad.png: cannot identify"),
        (lambda p: label_map(p, LABELS + 1), "from 0 to 3 or 255 .* got 4 at row 0, column 3"),
        (lambda p: label_map(p, LABELS * 1000, np.uint16), "got 1000 at row 0, column 1"),
        (lambda p: str(p), "cannot read the label map .*bad.png"),
    ],
)
def test_a_map_that_is_none_is_one_line_that_names_it(
    write: Callable[[Path], str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_labels(write(tmp_path / "bad.png"), SIZE, 4)
    assert "bad.png" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_label_beyond_the_classes_of_ade_is_told_as_the_file_has_it(tmp_path: Path) -> None:
    path = label_map(tmp_path / "a.png", LABELS * 51)
    with pytest.raises(InputError, match=r"from 1 to 150 or 255 .* got 153 at row 0, column 3"):
        read_labels(path, SIZE, 150, reduce_zero_label=True)


def remove(root: Path, *names: str) -> None:
    for name in names:
        (root / name).unlink()


MISTAKES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], str]] = {
    "no images": (ade, lambda r: (r / "images").rename(r / "x"), "expected a folder images or JPE"),
    "no maps": (ade, lambda r: (r / "annotations").rename(r / "x"), "a folder annotations or lab"),
    "a map too few": (
        ade,
        lambda r: (r / "annotations/training/1.png").unlink(),
        "expected a label map for .*images/training/1.jpg in .*annotations/training, found none$",
    ),
    "images too few": (
        ade,
        lambda r: remove(r, "images/training/0.jpg", "images/training/2.jpg"),
        "expected an image for .*0.png in .*images/training, found none, and for 1 more",
    ),
    "no validation": (
        ade,
        lambda r: (r / "images/validation").rename(r / "x"),
        "expected a folder val beside train in .*images",
    ),
    "a name of nothing": (
        voc,
        lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("4\n"),
        "expected 4, which .*val.txt names, in .*SegmentationClass, found none",
    ),
    "no names": (
        voc,
        lambda r: (r / "ImageSets/Segmentation/val.txt").unlink(),
        "cannot read the names of images .*val.txt",
    ),
    "one image": (
        own,
        lambda r: remove(r, *(f"{part}/{i}.png" for i in range(9) for part in ("images", "masks"))),
        "too few images to hold some out for testing: got .*9.png alone",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_folders_that_do_not_fit_are_one_line(case: str, tmp_path: Path) -> None:
    layout, change, message = MISTAKES[case]
    change(layout(tmp_path))
    with pytest.raises(InputError, match=message):
        find(tmp_path)
