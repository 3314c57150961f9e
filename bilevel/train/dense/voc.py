"""Annotations of objects as Pascal VOC's folders have them: a file of XML for each image."""

from __future__ import annotations

import xml.etree.ElementTree as Tree
from collections.abc import Sequence
from pathlib import Path

from bilevel.errors import InputError
from bilevel.train.dense.coco import CLIPPED, EMPTY, Annotated, Annotation, Box, Picture, clipped
from bilevel.train.dense.repairs import Repairs

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path, stems: Sequence[str], classes: Sequence[str] | None = None) -> Annotated:
    """The objects in images of a folder with ``JPEGImages`` and ``Annotations``.

    Corners count pixels from 1 on, the last one included; boxes are clipped and left out as in
    :func:`bilevel.train.dense.coco.read`. Objects that are marked as difficult are crowds: no model
    is to find them, none is wrong to.

    Parameters
    ----------
    folder
        The folder.
    stems
        Names of images without a suffix, as in ``ImageSets/Main/train.txt``.
    classes
        Names of the classes; None for those that there are, in their alphabetical order.

    Raises
    ------
    InputError
        If a file is missing or no XML, or an object has no name of a class, or no box; the line
        names it.
    """
    trees = {stem: _parsed(folder / "Annotations" / f"{stem}.xml") for stem in stems}
    if classes is None:
        names = {each.findtext("name") for tree in trees.values() for each in tree.iter("object")}
        classes = sorted(name for name in names if name)
    repairs, number, pictures = Repairs(), 0, []
    for stem, tree in trees.items():
        path = _image(folder / "JPEGImages", tree.findtext("filename"), stem)
        size = _size(folder / "Annotations" / f"{stem}.xml", tree)
        objects = []
        for place, each in enumerate(tree.iter("object")):
            where = f"{folder / 'Annotations' / stem}.xml: object {place + 1}"
            box = _box(where, each)
            within = clipped(box, size)
            label = _label(where, each.findtext("name"), classes)
            if within[0] >= within[2] or within[1] >= within[3]:
                repairs.add(EMPTY, where)
                continue
            if within != box:
                repairs.add(CLIPPED, where)
            number += 1
            difficult = each.findtext("difficult", "0").strip() == "1"
            objects.append(Annotation(number, label, within, crowd=difficult))
        pictures.append(Picture(path, size, objects))
    return Annotated(classes, pictures, repairs.notes())


def _parsed(file: Path) -> Tree.Element:
    try:
        return Tree.parse(file).getroot()
    except (OSError, Tree.ParseError) as error:
        raise InputError(f"cannot read the annotations {file}: {error}") from error


def _image(folder: Path, name: str | None, stem: str) -> str:
    for each in (name, f"{stem}.jpg", f"{stem}.png", f"{stem}.jpeg"):
        if each and (folder / each).is_file():
            return str(folder / each)
    raise InputError(f"expected the image of {stem} in {folder}, found none at {name or stem}")


def _size(file: Path, tree: Tree.Element) -> tuple[int, int]:
    height, width = (tree.findtext(f"size/{name}", "").strip() for name in ("height", "width"))
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"{file}: expected a height and a width, got {height!r} and {width!r}")
    return int(height), int(width)


def _label(where: str, name: str | None, classes: Sequence[str]) -> int:
    if name not in classes:
        raise InputError(f"{where}: expected a name of a class, got {name!r}")
    return classes.index(name) + 1


def _box(where: str, one: Tree.Element) -> Box:
    texts = [one.findtext(f"bndbox/{name}", "") for name in CORNERS]
    try:
        x1, y1, x2, y2 = map(float, texts)
    except ValueError as error:
        raise InputError(f"{where}: expected a box of four numbers, got {texts}") from error
    return x1 - 1, y1 - 1, x2, y2
