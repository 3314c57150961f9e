"""The page that explains the kernels names what there is."""

from __future__ import annotations

import re
from importlib.resources import files

from bilevel_cupy import kernels

PAGE = (files(kernels) / "README.md").read_text()


def test_all_kernels_are_explained_where_they_are() -> None:
    for name in kernels.FILES:
        text = (files(kernels) / name).read_text()
        for kernel in re.findall(r"__global__ void(?: __launch_bounds__\(.*\))?\s+(\w+)\(", text):
            assert re.search(rf"`{kernel}[`<].*`{name}`", PAGE), f"{kernel} of {name}"


def test_words_are_those_of_the_text() -> None:
    _, words, _ = re.split(r"## Words\n(.*?)\n## ", PAGE, flags=re.DOTALL)
    found = {
        word.partition("<")[0]
        for row in re.findall(r"^\| (`.*?) \|", words, re.MULTILINE)
        for word in re.findall(r"`([^`]+)`", row)
    }
    assert len(found) > 10
    assert {word for word in found if not re.search(rf"\b{word}\b", kernels.text())} == set()
