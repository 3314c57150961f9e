"""Annotations of objects as COCO's files have them: read, checked, repaired where that loses
nothing, and counted where something was repaired."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from bilevel.errors import InputError
from bilevel.train.dense.repairs import Repairs

Box: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2, in pixels."""

CLIPPED = "boxes clipped to their images"
EMPTY = "boxes left out, which have no area within their images"
OUTLINED = "boxes made of their outlines"
SHORT = "outlines left out, of fewer than three points"
RENUMBERED = "annotations of id 0 or of an id that was there, given another"


class Annotation(NamedTuple):
    """An object in an image."""

    id: int
    """From 1 on, no two alike: that 0 counts as unmatched, COCO's evaluation says nowhere."""
    label: int
    """From 1 to the number of classes."""
    box: Box
    """Within the image."""
    segmentation: Any = None
    """Polygons ``[x, y, x, y, ...]``, or a mask as run lengths; None where there is none."""
    crowd: bool = False
    """Whether it is of many objects: no model is to find it, none is wrong to."""


class Picture(NamedTuple):
    """An image and what is in it."""

    path: str
    size: tuple[int, int]
    """Height and width."""
    objects: Sequence[Annotation]


class Annotated(NamedTuple):
    """Pictures with objects of some classes."""

    classes: Sequence[str]
    """Of the labels 1, 2 and so on."""
    pictures: Sequence[Picture]
    notes: Sequence[str]
    """What was repaired: lines to show."""


def read(file: Path, images: Path) -> Annotated:
    """The annotations in a COCO file, of images whose names are from the folder ``images`` on.

    Categories get the labels from 1 on, in the order of their ids. Boxes are clipped to their
    images; those without area there are left out, and so are outlines of fewer than three points.
    An object without a box gets that of its outlines.

    Raises
    ------
    InputError
        If it is no such file, or in the first entry that cannot be used, which the line names: an
        image that is not there or has no size, an unknown image or category, a box that is none, a
        mask of another size than its image.
    """
    content = _loaded(file)
    repairs = Repairs()
    images_by_id = _by_id(file, content, "images")
    categories = dict(sorted(_by_id(file, content, "categories").items()))
    labels = {category: label for label, category in enumerate(categories, 1)}
    sizes = {key: _size(file, entry, images) for key, (entry, _) in images_by_id.items()}
    objects: dict[Any, list[Annotation]] = {key: [] for key in images_by_id}
    taken: set[int] = set()
    for place, entry in enumerate(content["annotations"]):
        where = _where(file, "annotations", place, entry)
        _known(where, entry, "image_id", images_by_id)
        _known(where, entry, "category_id", labels)
        found = _annotation(where, entry, labels, sizes[entry["image_id"]], repairs)
        if found is not None:
            number = _numbered(where, found.id, taken, repairs)
            objects[entry["image_id"]].append(found._replace(id=number))
    pictures = [
        Picture(str(images / entry["file_name"]), sizes[key], objects[key])
        for key, (entry, _) in images_by_id.items()
    ]
    names = [str(entry.get("name", key)) for key, (entry, _) in categories.items()]
    return Annotated(names, pictures, repairs.notes())


def _loaded(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the annotations {file}: {error}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in lists
    ):
        raise InputError(f"expected a COCO file with lists {', '.join(lists)}, got {file}")
    return content


def _where(file: Path, kind: str, place: int, entry: Any) -> str:
    """The name of an entry, for errors: its place, and its id if it has one."""
    number = f" (id {entry['id']!r})" if isinstance(entry, Mapping) and "id" in entry else ""
    return f"{file}: {kind}[{place}]{number}"


def _by_id(
    file: Path, content: Mapping[str, Any], kind: str
) -> dict[Any, tuple[Mapping[str, Any], str]]:
    """The entries of a list by their ids, each with its name."""
    found: dict[Any, tuple[Mapping[str, Any], str]] = {}
    for place, entry in enumerate(content[kind]):
        where = _where(file, kind, place, entry)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), (int, str)):
            raise InputError(f"{where}: expected an entry with an id, got {entry!r:.80}")
        if entry["id"] in found:
            raise InputError(f"{where}: expected another id, {found[entry['id']][1]} has it")
        found[entry["id"]] = entry, where
    if not found:
        raise InputError(f"{file}: expected {kind}, found none")
    return found


def _size(file: Path, entry: Mapping[str, Any], images: Path) -> tuple[int, int]:
    where = f"{file}: image {entry['id']!r}"
    name = entry.get("file_name")
    if not isinstance(name, str) or not (images / name).is_file():
        raise InputError(f"{where}: expected an image file in {images}, found none at {name!r}")
    height, width = entry.get("height"), entry.get("width")
    if height is None and width is None:
        from PIL import Image

        with Image.open(images / name) as image:
            width, height = image.size
    if not all(isinstance(n, int) and n > 0 for n in (height, width)):
        raise InputError(f"{where}: expected a height and a width, got {height!r} and {width!r}")
    return height, width  # type: ignore[return-value] # integers, as just seen


def _known(where: str, entry: Any, field: str, known: Mapping[Any, Any]) -> None:
    value = entry.get(field) if isinstance(entry, Mapping) else None
    if not isinstance(value, (int, str)) or value not in known:
        raise InputError(f"{where}: expected an entry's {field} from the file, got {value!r:.80}")


def _annotation(
    where: str,
    entry: Mapping[str, Any],
    labels: Mapping[Any, int],
    size: tuple[int, int],
    repairs: Repairs,
) -> Annotation | None:
    """None if it has no area within its image."""
    segmentation = _segmentation(where, entry.get("segmentation"), size, repairs)
    if "bbox" in entry:
        given = _corners(where, entry["bbox"])
    elif isinstance(segmentation, list):
        given = _around(segmentation)
        repairs.add(OUTLINED, where)
    else:
        raise InputError(f"{where}: expected a bbox, or outlines to make it of, found neither")
    box = clipped(given, size)
    if box[0] >= box[2] or box[1] >= box[3]:
        repairs.add(EMPTY, where)
        return None
    if box != given:
        repairs.add(CLIPPED, where)
    number = entry.get("id", 0)
    label, crowd = labels[entry["category_id"]], bool(entry.get("iscrowd"))
    return Annotation(number if isinstance(number, int) else 0, label, box, segmentation, crowd)


def _numbered(where: str, number: int, taken: set[int], repairs: Repairs) -> int:
    """A number from 1 on that no annotation before has."""
    if number < 1 or number in taken:
        repairs.add(RENUMBERED, where)
        number = max(taken, default=0) + 1
    taken.add(number)
    return number


def _corners(where: str, box: Any) -> Box:
    """From x, y, width, height."""
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise InputError(f"{where}: expected a bbox of four numbers, got {box!r:.80}")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)  # as JSON has them


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box that is within an image of a height and width."""
    height, width = size
    (x1, x2), (y1, y2) = (
        (min(max(a, 0.0), n), min(max(b, 0.0), n))
        for a, b, n in ((box[0], box[2], float(width)), (box[1], box[3], float(height)))
    )
    return x1, y1, x2, y2


def _segmentation(where: str, given: Any, size: tuple[int, int], repairs: Repairs) -> Any:
    """Polygons of three points or more, a mask of the image's size, or None."""
    if given is None or given == []:
        return None
    if isinstance(given, Mapping):
        if given.get("size") != list(size) or "counts" not in given:
            raise InputError(
                f"{where}: expected a mask of its image's size {list(size)} with counts, got one "
                f"of size {given.get('size')!r:.80}"
            )
        counts = given["counts"]
        if not isinstance(counts, str) and not _fills(counts, size):
            raise InputError(f"{where}: expected run lengths of all pixels, got {counts!r:.80}")
        return given
    if not isinstance(given, list) or not all(isinstance(each, list) for each in given):
        raise InputError(f"{where}: expected polygons or run lengths, got {given!r:.80}")
    for each in given:
        if len(each) % 2 or not all(map(_is_finite, each)):
            raise InputError(f"{where}: expected a polygon of pairs of numbers, got {each!r:.80}")
    outlines = [each for each in given if len(each) >= 6]
    for _ in range(len(given) - len(outlines)):
        repairs.add(SHORT, where)
    return outlines or None


def _fills(counts: Any, size: tuple[int, int]) -> bool:
    """Whether run lengths are those of all pixels of an image."""
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        return False
    return sum(counts) == size[0] * size[1]


def _around(outlines: Sequence[Sequence[float]]) -> Box:
    xs = [x for outline in outlines for x in outline[0::2]]
    ys = [y for outline in outlines for y in outline[1::2]]
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
