"""Ways to read training images, timed side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from bilevel.bench import reading


def test_every_row_measures_all_of_its_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FILES", 2)
    threads = torch.get_num_threads()
    for name, measure in reading.rows("cpu", 1).items():
        row = measure()
        assert row["left_out"] == {}, name
        assert len(row["images_per_s"]) == 2
        other = next(each for each in row["images_per_s"] if each != "bilevel")
        ours = row["images_per_s"]["bilevel"]
        assert row["ratios"] == {f"bilevel to {other}": ours / row["images_per_s"][other]}
    assert torch.get_num_threads() == threads


def test_the_files_are_the_same_each_time_and_of_the_size_that_is_said(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    first, second = (reading.written(folder) for folder in folders)
    assert [Path(p).read_bytes() for p in first] == [Path(p).read_bytes() for p in second]
    with Image.open(first[0]) as image:
        assert (image.format, image.size) == ("JPEG", (500, 375))
