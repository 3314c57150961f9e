"""COCO files as they are found: right ones, ones that can be repaired, and ones that cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bilevel import InputError
from bilevel.train.dense import coco
from bilevel.train.dense.measures import coco_numbers
from bilevel.train.dense.targets import target, to_train_on

Change = Callable[[dict[str, Any]], Any]


def content() -> dict[str, Any]:
    """Two images of two objects and one, in categories whose ids have a gap."""
    outline = [[10, 10, 30, 10, 30, 30, 10, 30]]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 3, "file_name": "b.png", "height": 50, "width": 30},
        ],
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20]}
            | {"segmentation": outline, "iscrowd": 0, "area": 400},
            {"id": 6, "image_id": 7, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            {"id": 8, "image_id": 3, "category_id": 2, "bbox": [2.5, 3, 10, 20.5]}
            | {"segmentation": {"size": [50, 30], "counts": [155, 20, 1325]}},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    Image.new("RGB", (30, 50)).save(folder / "b.png")
    return folder


def read(images: Path, change: Change) -> coco.Annotated:
    what = content()
    change(what)
    file = images / "annotations.json"
    file.write_text(json.dumps(what))
    return coco.read(file, images)


def test_a_right_file_is_read_as_it_is(images: Path) -> None:
    found = read(images, lambda _: None)
    assert found.classes == ["dog", "cat"]
    assert found.notes == []
    first, second = found.pictures
    assert (first.path, first.size) == (str(images / "a.png"), (40, 60))
    boxes = target(first, masks=True)
    assert boxes["boxes"].tolist() == [[10, 10, 30, 30], [0, 0, 60, 40]]
    assert boxes["labels"].tolist() == [2, 1]
    assert boxes["crowd"].tolist() == [False, True]
    assert int(boxes["masks"][0].sum()) == 400
    assert {k: len(v) for k, v in to_train_on(boxes).items()} == dict.fromkeys(
        ("boxes", "labels", "masks"), 1
    )
    other = target(second, masks=True)
    assert other["boxes"].tolist() == [[2.5, 3, 12.5, 23.5]]
    assert int(other["masks"].sum()) == 20
    assert bool(other["masks"][0, 5:25, 3].all())  # run lengths go down the columns


def put(place: int, **fields: Any) -> Change:
    """Other fields of an annotation."""
    return lambda what: what["annotations"][place].update(fields)


def without(place: int, name: str) -> Change:
    return lambda what: what["annotations"][place].pop(name)


REPAIRED: dict[str, tuple[Change, str]] = {
    "partly outside": (put(2, bbox=[-5, 3, 10, 90]), "1 boxes clipped .*annotations[2] (id 8)"),
    "outside": (put(2, bbox=[100, 3, 10, 9]), "1 boxes left out, which have no area"),
    "zero area": (put(2, bbox=[4, 3, 0, 9]), "1 boxes left out, which have no area"),
    "negative": (put(2, bbox=[4, 3, -3, 9]), "1 boxes left out, which have no area"),
    "id 0": (put(0, id=0), "1 annotations of id 0"),
    "the same id": (put(1, id=5), "1 annotations of id 0 or of an id that was there"),
    "two points": (put(0, segmentation=[[1, 2, 3, 4]]), "1 outlines left out, of fewer than"),
    "no box": (without(0, "bbox"), "1 boxes made of their outlines"),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_what_can_be_repaired_is_counted_and_nothing_else_is_lost(case: str, images: Path) -> None:
    change, note = REPAIRED[case]
    found = read(images, change)
    words, _, where = note.partition(" .*")
    (said,) = found.notes
    assert said.startswith(words)
    assert where in said
    left = sum(len(picture.objects) for picture in found.pictures)
    assert left == (2 if "left out, which" in note else 3)
    ids = [each.id for picture in found.pictures for each in picture.objects]
    assert len(set(ids)) == left
    assert min(ids) >= 1
    for picture in found.pictures:
        boxes, (height, width) = target(picture)["boxes"], picture.size
        assert bool((boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all())
        assert bool((boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all())


def test_an_object_without_an_outline_is_masked_by_its_box(images: Path) -> None:
    found = read(images, put(0, segmentation=[[1, 2, 3, 4]]))
    assert int(target(found.pictures[0], masks=True)["masks"][0].sum()) == 400
    outside = [[300, 300, 310, 300, 310, 310]]
    found = read(images, put(0, segmentation=outside))
    assert target(found.pictures[0], masks=True)["masks"][0].any()


def image(place: int, **fields: Any) -> Change:
    return lambda what: what["images"][place].update(fields)


MISTAKES: dict[str, tuple[Change, str]] = {
    "unknown category": (
        put(1, category_id=4),
        "annotations[1] (id 6): expected an entry's category_id from the file, got 4",
    ),
    "no category": (
        without(1, "category_id"),
        "annotations[1] (id 6): expected an entry's category_id",
    ),
    "unknown image": (put(1, image_id=99), "annotations[1] (id 6): expected an entry's image_id"),
    "missing image": (
        image(1, file_name="gone.png"),
        "image 3: expected an image file in ",
    ),
    "no size": (image(1, height=0), "image 3: expected a height and a width, got 0 and 30"),
    "the same image twice": (image(1, id=7), "images[1] (id 7): expected another id, "),
    "box of three": (put(0, bbox=[1, 2, 3]), "annotations[0] (id 5): expected a bbox of four"),
    "box of words": (put(0, bbox=["1", 2, 3, 4]), "annotations[0] (id 5): expected a bbox of"),
    "box of nothing": (put(0, bbox=None), "annotations[0] (id 5): expected a bbox of four"),
    "box beyond numbers": (put(0, bbox=[float("nan"), 0, 1, 1]), "expected a bbox of four"),
    "RLE of another size": (
        put(2, segmentation={"size": [30, 50], "counts": [1500]}),
        "annotations[2] (id 8): expected a mask of its image's size [50, 30] with counts",
    ),
    "RLE of too little": (
        put(2, segmentation={"size": [50, 30], "counts": [7]}),
        "annotations[2] (id 8): expected run lengths of all pixels",
    ),
    "odd polygon": (put(0, segmentation=[[1, 2, 3, 4, 5]]), "expected a polygon of pairs"),
    "polygon of words": (put(0, segmentation="RLE"), "expected polygons or run lengths"),
    "neither": (
        lambda what: [what["annotations"][1].pop(name) for name in ("bbox",)],
        "annotations[1] (id 6): expected a bbox, or outlines to make it of",
    ),
    "no lists": (lambda what: what.pop("images"), "expected a COCO file with lists images"),
    "no images": (lambda what: what["images"].clear(), "expected images, found none"),
    "an entry that is none": (
        lambda what: what["images"].append(4),
        "expected an entry with an id",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_used_is_one_line_that_names_the_entry(case: str, images: Path) -> None:
    change, message = MISTAKES[case]
    with pytest.raises(InputError) as error:
        read(images, change)
    line = str(error.value)
    assert message in line
    assert str(images / "annotations.json") in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '{"images": 3}'])
def test_what_is_no_file_of_coco(text: str, images: Path) -> None:
    (images / "other.json").write_text(text)
    with pytest.raises(InputError, match=r"other\.json"):
        coco.read(images / "other.json", images)


@given(box=st.tuples(*[st.floats(-200, 200)] * 4))
def test_a_clipped_box_is_within_and_loses_nothing_there(box: tuple[float, ...]) -> None:
    x, y, w, h = box
    x1, y1, x2, y2 = coco.clipped((x, y, x + w, y + h), (40, 60))
    assert 0 <= x1 <= 60
    assert 0 <= y2 <= 40
    grid_x, grid_y = np.meshgrid(np.arange(0.5, 60), np.arange(0.5, 40))
    inside = (x < grid_x) & (grid_x < x + w) & (y < grid_y) & (grid_y < y + h)
    after = (x1 < grid_x) & (grid_x < x2) & (y1 < grid_y) & (grid_y < y2)
    assert np.array_equal(inside, after)


def test_what_is_read_counts_as_found_in_full(images: Path) -> None:
    """With an id of 0, which would count as missed."""
    found = read(images, put(0, id=0))
    truth = [target(picture, masks=True) for picture in found.pictures]
    right = [{**each, "scores": each["labels"] * 0 + 0.9} for each in map(to_train_on, truth)]
    sizes = [picture.size for picture in found.pictures]
    for kind in ("bbox", "segm"):
        assert coco_numbers(truth, right, sizes, kind)["AP"] == 1
