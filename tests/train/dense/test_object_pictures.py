"""Folders of images with objects, of COCO and VOC, as people have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bilevel import InputError
from bilevel.train.dense import voc
from bilevel.train.dense.object_pictures import find

BOX = [2, 3, 10, 12]


def pictures(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(folder / name)


def coco_file(file: Path, names: list[str], classes: str = "ab") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    size = {"height": 20, "width": 30}
    content = {
        "images": [{"id": i, "file_name": name, **size} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % len(classes), "bbox": BOX}
            for i in range(len(names))
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
    }
    file.write_text(json.dumps(content))


def as_coco(root: Path) -> None:
    for split, names in (("train", ["0.jpg", "1.jpg"]), ("val", ["0.jpg"])):
        pictures(root / f"{split}2017", names)
        coco_file(root / "annotations" / f"instances_{split}2017.json", names)
        coco_file(root / "annotations" / f"captions_{split}2017.json", names)


def as_roboflow(root: Path) -> None:
    for split, names in (("train", ["0.jpg", "1.jpg"]), ("valid", ["2.jpg"]), ("test", ["3.jpg"])):
        pictures(root / split, names)
        coco_file(root / split / "_annotations.coco.json", names)


def as_ultralytics(root: Path) -> None:
    for split, names in (("train", ["0.jpg", "1.jpg"]), ("val", ["2.jpg"])):
        pictures(root / "images" / split, names)
        coco_file(root / "annotations" / f"{split}.json", names)


def as_labelme(root: Path) -> None:
    names = [f"JPEGImages/{i}.jpg" for i in range(3)]
    pictures(root, names)
    coco_file(root / "annotations.json", names)


@pytest.mark.parametrize("layout", [as_coco, as_roboflow, as_ultralytics, as_labelme])
def test_folders_with_coco_files(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(tmp_path)
    found = find(tmp_path)
    assert found.classes == ["a", "b"]
    assert [len(part) for part in (found.train, found.test)] == [2, 1]
    assert all(Path(each.path).is_file() for each in (*found.train, *found.test))
    assert not {each.path for each in found.train} & {each.path for each in found.test}
    assert list(found.train[0].objects[0].box) == [2, 3, 12, 15]
    assert found.notes[0].startswith("train: 2 images in ")
    assert any("annotations of id 0" in note for note in found.notes)


XML = """<annotation><filename>{name}.jpg</filename>
<size><width>30</width><height>20</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}
</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def of_voc(name: str = "cat", box: Any = (3, 4, 12, 15), difficult: int = 0) -> str:
    return OBJECT.format(name=name, box=box, difficult=difficult)


def as_voc(root: Path, objects: str | None = None) -> None:
    pictures(root / "JPEGImages", ["0.jpg", "1.jpg", "2.jpg"])
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    found = [objects or of_voc(), of_voc("dog", difficult=1) + of_voc(), of_voc("dog")]
    for i, each in enumerate(found):
        (root / "Annotations" / f"{i}.xml").write_text(XML.format(name=i, objects=each))
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("2\n")


def test_voc(tmp_path: Path) -> None:
    as_voc(tmp_path)
    found = find(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert [len(each.objects) for each in (*found.train, *found.test)] == [1, 2, 1]
    first = found.train[0].objects[0]
    assert (first.box, first.label, first.crowd) == ((2, 3, 12, 15), 1, False)
    assert [each.crowd for each in found.train[1].objects] == [True, False]
    assert len({each.id for picture in found.train for each in picture.objects}) == 3


def test_boxes_of_voc_are_repaired_and_counted(tmp_path: Path) -> None:
    as_voc(tmp_path, of_voc(box=(-3, 4, 12, 90)) + of_voc(box=(50, 4, 60, 9)))
    found = find(tmp_path)
    assert [each.box for each in found.train[0].objects] == [(0, 3, 12, 20)]
    assert [note.split(";")[0] for note in found.notes[2:]] == [
        "1 boxes clipped to their images",
        "1 boxes left out, which have no area within their images",
    ]
    assert "0.xml: object 2" in found.notes[3]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (of_voc(box=("a", 1, 2, 3)), r"0\.xml: object 1: expected a box of four numbers"),
        (of_voc() + "<object><name>cat</name></object>", r"object 2: expected a box of four"),
        (of_voc(name=""), r"0\.xml: object 1: expected a name of a class, got ''"),
        ("<object>", r"cannot read the annotations .*0\.xml: mismatched tag"),
    ],
)
def test_what_cannot_be_used_of_voc_is_named(objects: str, message: str, tmp_path: Path) -> None:
    as_voc(tmp_path, objects)
    with pytest.raises(InputError, match=message):
        find(tmp_path)


def test_a_class_that_is_not_among_those_given_is_named(tmp_path: Path) -> None:
    as_voc(tmp_path)
    with pytest.raises(
        InputError, match=r"1\.xml: object 1: expected a name of a class, got 'dog'"
    ):
        voc.read(tmp_path, ["0", "1"], ["cat"])


def nothing(root: Path) -> None:
    pictures(root, ["0.jpg"])


def other_categories(root: Path) -> None:
    as_coco(root)
    coco_file(root / "annotations" / "instances_val2017.json", ["0.jpg"], "ba")


def without_train(root: Path) -> None:
    as_coco(root)
    (root / "annotations" / "instances_train2017.json").rename(root / "instances_test.json")


def without_roles(root: Path) -> None:
    as_labelme(root)
    coco_file(root / "more.json", ["JPEGImages/1.jpg"])


def one_image(root: Path) -> None:
    pictures(root, ["0.jpg"])
    coco_file(root / "annotations.json", ["0.jpg"])


def images_elsewhere(root: Path) -> None:
    as_coco(root)
    (root / "train2017").rename(root / "x")
    (root / "x" / "0.jpg").unlink()
    (root / "val2017").rename(root / "y")
    (root / "y" / "0.jpg").unlink()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (nothing, "expected a COCO file in .*, or folders of Pascal VOC, found neither"),
        (other_categories, r"expected the categories of .*train2017\.json in .*val2017\.json"),
        (without_train, "expected a COCO file with train in its name"),
        (without_roles, "expected files with train and val .or test. in their names, got .*more"),
        (one_image, r"too few images in .*annotations\.json to hold some out"),
        (images_elsewhere, r"train2017\.json: image 0: expected an image file in .* at '0\.jpg'"),
    ],
)
def test_folders_that_do_not_fit_are_one_line(
    layout: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    layout(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        find(tmp_path)
    assert "\n" not in str(error.value)
