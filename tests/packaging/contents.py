"""Check what wheels hold: `python contents.py WHEEL...`, each expected to hold the same."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

OF_BACKENDS = ("cpu", "cupy", "numpy", "torch", "triton")
OF_PICTURES = {
    *(f"bilevel/visual/page/page.{kind}" for kind in ("html", "css", "js")),
    *(f"bilevel/visual/sample/digits.{kind}" for kind in ("json", "safetensors")),
}
PACKAGES = {"bilevel", *(f"bilevel_{name}" for name in OF_BACKENDS)}


def names(wheel: Path) -> set[str]:
    """The files in a wheel, once the ones that must be there are."""
    files = set(ZipFile(wheel).namelist())
    version = wheel.name.split("-")[1]
    info = f"bilevel-{version}.dist-info"
    top = {file.partition("/")[0] for file in files}
    assert top == PACKAGES | {info}, f"expected the top-level names {PACKAGES | {info}}, got {top}"
    needed = {f"{package}/py.typed" for package in PACKAGES}
    needed |= OF_PICTURES | {f"{info}/{file}" for file in ("licenses/LICENSE", "entry_points.txt")}
    assert needed <= files, f"{wheel.name} lacks {needed - files}"
    return files


if __name__ == "__main__":
    first, *others = map(Path, sys.argv[1:])
    for other in others:
        differ = names(first) ^ names(other)
        assert not differ, f"only in one of {first} and {other}: {differ}"
    print(f"{first.name}: {len(names(first))} files, as expected")
