"""Folders as people have them: their images, or one clear error."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from bilevel import InputError
from bilevel.train import data, folders, splits
from bilevel.train.config import TrainConfig
from tests.train.image_folders import NAMES, image, make, run

CONFIG = TrainConfig(data="", image_size=32, batch_size=4, workers=0)
TRIALS = int(os.environ.get("BILEVEL_TRIALS", "40"))


def found(path: Path) -> Any:
    return data.find(replace(CONFIG, data=str(path)))


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_random_folder_gives_its_images_or_one_clear_error(seed: int, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    expected = make(root, Random(seed))
    if expected.error:
        with pytest.raises(InputError, match=expected.error) as error:
            found(root)
        assert "\n" not in str(error.value)
        return
    there = found(root)
    assert there.classes == expected.classes
    assert (len(there.train), len(there.test)) == (expected.train, expected.test)
    assert not set(there.train.images) & set(there.test.images)
    for part in (there.train, there.test):
        for i in range(len(part)):
            assert part[i][0].shape == (3, 32, 32)


HIDDEN = (".ipynb_checkpoints", ".git", "__MACOSX", ".AppleDouble", ".thumbnails", ".@__thumb")


@pytest.mark.parametrize("depth", ["", "cat", "cat/deep", "train", "train/cat", "val/cat"])
@pytest.mark.parametrize("name", [*HIDDEN, "._0.png", ".0.png"])
def test_what_is_hidden_is_no_data_at_any_depth(depth: str, name: str, tmp_path: Path) -> None:
    inside = "train" in depth or "val" in depth
    for split in ("train", "val") if inside else ("",):
        for label in ("cat", "dog"):
            for i in range(3):
                image(tmp_path / split / label / f"{i}.png", Random(i))
    before = found(tmp_path)
    if name.endswith(".png"):
        (tmp_path / depth).mkdir(exist_ok=True)
        (tmp_path / depth / name).write_bytes(b"no image")
    else:
        image(tmp_path / depth / name / "cat" / "0.png", Random(9))
    after = found(tmp_path)
    assert after.summary() == before.summary()
    assert after.notes == before.notes
    assert after.train.images == before.train.images


@pytest.mark.parametrize("name", NAMES["train"])
@pytest.mark.parametrize("held_out", [*NAMES["val"], *NAMES["test"]])
def test_splits_are_known_by_any_of_their_usual_names(
    name: str, held_out: str, tmp_path: Path
) -> None:
    for split, count in ((name, 3), (held_out, 2)):
        for label in ("cat", "dog"):
            for i in range(count):
                image(tmp_path / split / label / f"{i}.png", Random(i))
    there = found(tmp_path)
    assert (there.classes, len(there.train), len(there.test)) == (["cat", "dog"], 6, 4)
    assert there.notes == [
        f"train: 6 images of 2 classes in {tmp_path / name}",
        f"test: 4 images in {tmp_path / held_out}",
    ]


@pytest.mark.parametrize("name", ["trainer", "value", "contest", "tested", "trains", "validated"])
def test_a_class_that_sounds_like_a_split_is_a_class(name: str) -> None:
    assert splits.role_of(name) is None


def test_val_is_before_test_and_what_is_not_used_is_said(tmp_path: Path) -> None:
    for split in ("train", "val", "test", "extra"):
        for label in ("cat", "dog"):
            image(tmp_path / split / label / "0.png", Random(0))
    image(tmp_path / "sheet.png", Random(0))
    (tmp_path / "train" / "dog" / "1.HEIC").write_bytes(b"")
    (tmp_path / "val" / "dog" / "notes").write_bytes(b"")
    assert found(tmp_path).notes[1:] == [
        f"test: 2 images in {tmp_path / 'val'}",
        f"not used: the folder {tmp_path / 'extra'}",
        f"not used: the folder {tmp_path / 'test'}",
        f"not used: 1 images beside the folders in {tmp_path}",
        "not used: files of other kinds: 1 .heic, 1 without suffix",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["A/cat/0", "A/dog/0", "B/cat/0", "B/dog/0"], "A and B both have folders 'cat', 'dog'"),
        (["A/A/cat/0", "A/A/dog/0", "B/B/cat/0", "B/B/dog/0"], "A and B both have"),
        (["A/cat/0", "A/dog/0", "A/x/0", "B/cat/0", "B/dog/0"], "A and B both have"),
        (["cat/train/0", "cat/test/0", "dog/train/0", "dog/test/0"], "both have folders"),
        (["val/cat/0", "val/dog/0", "test/cat/0", "test/dog/0"], "got 'test', 'val': name"),
        (["train/0", "test/0", "bus/0"], "got 'bus', 'test', 'train': name splits"),
        (["train/cat/0", "train/dog/0", "Train/cat/0"], "expected one folder of train images"),
        (["train/cat/0", "train/dog/0", "car/0"], "beside 'train'.* there is 'car'"),
        (["train/cat/0", "train/dog/0", "val/cat/0", "val/cow/0"], "'dog' only in .*train; 'cow'"),
        (["images/cat/0", "images/dog/0"], "got 'images'; is it .*images?"),
        (["0", "1"], "classes or more, in .*, got none"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for name in files:
        image(tmp_path / f"{name}.png", Random(0))
    with pytest.raises(InputError, match=message):
        found(tmp_path)


def test_classes_may_have_a_folder_of_one_name(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(3):
            image(tmp_path / label / "images" / f"{i}.png", Random(i))
    assert found(tmp_path).classes == ["cat", "dog"]


def test_classes_with_one_image_are_named(tmp_path: Path) -> None:
    for label, count in (("cat", 4), ("dog", 1), ("emu", 1)):
        for i in range(count):
            image(tmp_path / label / f"{i}.png", Random(i))
    with pytest.raises(InputError, match=r"too few images .* got one of 'dog', 'emu'$"):
        found(tmp_path)


def test_a_fifth_of_each_class_is_held_out_the_same_each_time(tmp_path: Path) -> None:
    for label, count in (("cat", 10), ("dog", 2), ("emu", 33)):
        for i in range(count):
            image(tmp_path / label / f"{i:02d}.png", Random(i))
    first, second = found(tmp_path), found(tmp_path)
    held = [first.test.labels.count(i) for i in range(3)]
    assert held == [2, 1, 7]
    assert [first.train.labels.count(i) for i in range(3)] == [8, 1, 26]
    assert first.test.images == second.test.images
    assert first.notes[1] == "test: 10 images held out of these, a fifth of each class"
    assert sorted(first.test.images) != [
        str(tmp_path / label / f"{i:02d}.png")
        for label, count in zip(("cat", "dog", "emu"), held, strict=True)
        for i in range(count)
    ]  # not the first ones, which are often taken in one place


def test_runs_are_no_data_wherever_they_are(tmp_path: Path) -> None:
    for label in ("cat", "dog", "runs"):
        for i in range(3):
            image(tmp_path / label / f"{i}.png", Random(i))
    before = found(tmp_path)
    for place in ("images-1", "cat/run", "cat/deep/er/run", "runs/cat-1", "out/a/b"):
        run(tmp_path / place)
    assert found(tmp_path).summary() == before.summary()
    run(tmp_path / "dog")  # a class folder that is the folder of a run
    assert found(tmp_path).classes == ["cat", "runs"]
    with pytest.raises(InputError, match=r"found no images$"):
        found(tmp_path / "out")


def test_a_config_and_data_of_something_else_are_no_run(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(2):
            image(tmp_path / label / f"{i}.png", Random(i))
    (tmp_path / "data.json").write_text("{}")
    for text in ("{}", "[]", "3", "not JSON", ""):
        (tmp_path / "config.json").write_text(text)
        assert found(tmp_path).classes == ["cat", "dog"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for i in range(3):
        image(tmp_path / "elsewhere" / f"{i}.png", Random(i))
        image(tmp_path / "images" / "cat" / f"{i}.png", Random(i))
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cat" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    there = found(tmp_path / "images")
    assert (there.classes, len(there.train) + len(there.test)) == (["cat", "dog"], 6)


def test_a_folder_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "cat" / "0.png", Random(0))
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if path.endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(InputError, match=r"cannot read the folder .*cat: .*Permission denied"):
        found(tmp_path)


MODES = {"BLP": "P", "MSP": "1", "XBM": "1"}
"""Modes of formats that have no RGB."""


def writable() -> list[str]:
    """The suffixes of what Pillow both writes and reads by itself."""
    formats = Image.registered_extensions()
    written = set(Image.SAVE) - {"IM"}  # whose writer warns that it is going
    return sorted(s for s in folders.suffixes() if formats[s] in written)


@pytest.mark.parametrize("suffix", writable())
def test_images_of_every_format_that_pillow_reads_are_data(suffix: str, tmp_path: Path) -> None:
    kind = Image.registered_extensions()[suffix]
    mode = MODES.get(kind, "RGB")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(2):
            name = f"{i}{suffix.upper() if i else suffix}"
            Image.new(mode, (32, 32)).save(tmp_path / label / name, kind)
    there = found(tmp_path)
    assert (len(there.train), len(there.test)) == (2, 2)
    assert there.train[0][0].shape == (3, 32, 32)
    assert len(there.notes) == 2


def test_files_of_other_formats_are_named_where_images_are_missing(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"found no images; there are .* 2 \.heic$"):
        found(tmp_path)
    image(tmp_path / "cat" / "1.png", Random(0))
    with pytest.raises(InputError, match=r"found no images in 'dog'; there are .* 2 \.heic$"):
        found(tmp_path)


@pytest.mark.parametrize("suffix", writable())
def test_a_broken_image_is_an_input_error_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    from bilevel.train import views

    draw = Random(suffix)
    path = tmp_path / f"0{suffix}"
    kind = Image.registered_extensions()[suffix]
    Image.effect_noise((32, 32), 50).convert(MODES.get(kind, "RGB")).save(path, kind)
    whole = path.read_bytes()
    for _ in range(TRIALS):
        broken = bytearray(whole[: draw.randrange(len(whole)) if draw.random() < 0.3 else None])
        for _ in range(draw.choice((1, 4, 30)) if broken else 0):
            broken[draw.randrange(min(len(broken), draw.choice((40, 10**6))))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            pixels = views.read_rgb(str(path))
        except InputError as error:
            said = str(error)
        else:
            said = f"{pixels.dtype} {pixels.ndim} {len(pixels)}"
        assert said == "torch.uint8 3 3" or said.startswith(f"cannot read the image {path}")
