"""Label maps: what a teacher says of each place, and the file of them, whatever ends its making."""

from __future__ import annotations

import json
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data import resolve_model_data_config
from timm.models._hub import has_hf_hub, save_for_hf  # which older releases do not export
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from bilevel import InputError
from bilevel.cli import main
from bilevel.train import data
from bilevel.train.config import TrainConfig
from bilevel.train.run import load
from bilevel.train.token_labels import maps
from bilevel.train.token_labels.maps import LabelMaps, MadeFrom
from bilevel.train.token_labels.teacher import best, of_model, place_logits
from tests.train.conftest import Trained

MADE_FROM = MadeFrom("a", "0", 64, (3, 2), ("x", "y"), 11, maps.names_hash(map(str, range(11))))
ARRAY = np.random.default_rng(0).standard_normal(MADE_FROM.shape).astype(np.float16)
AT_ONCE = 3


def from_array(first: int) -> Iterator[np.ndarray]:
    for i in range(first, len(ARRAY), AT_ONCE):
        yield ARRAY[i : i + AT_ONCE]


def slowly(first: int) -> Iterator[np.ndarray]:
    """With time to be killed."""
    for each in from_array(first):
        yield each
        time.sleep(0.2)


class Ended(Exception):
    """What ends the making of maps in a test."""


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "maps.npy"
    assert maps.write(path, MADE_FROM, from_array, AT_ONCE) == 0
    found = LabelMaps(path)
    assert len(found) == 11
    assert all(torch.equal(found[i], torch.from_numpy(ARRAY[i])) for i in range(11))
    assert np.array_equal(np.load(path), ARRAY)
    assert {each.name for each in tmp_path.iterdir()} == {"maps.npy", "maps.json"}
    assert maps.write(path, MADE_FROM, lambda _: pytest.fail("made again"), AT_ONCE) == 11


@given(cut=st.floats(0, 1), at_once=st.integers(1, 12))
def test_whatever_was_written_when_it_ended_the_file_becomes_the_same(
    tmp_path_factory: pytest.TempPathFactory, cut: float, at_once: int
) -> None:
    """The part that is there may end anywhere, in the header or within a map, and the last maps may
    be none."""
    folder = tmp_path_factory.mktemp("cut")
    maps.write(folder / "whole.npy", MADE_FROM, from_array, AT_ONCE)
    whole = (folder / "whole.npy").read_bytes()
    (folder / "whole.json").rename(folder / "maps.json")
    part = bytearray(whole[: round(cut * len(whole))])
    torn = at_once * ARRAY[0].nbytes
    head = len(whole) - ARRAY.nbytes
    if len(part) > head + torn:
        part[-torn:] = bytes(torn)
    (folder / ".maps.partial.npy").write_bytes(part)
    with pytest.raises(InputError, match="expected label maps in"):
        LabelMaps(folder / "maps.npy")
    before = maps.write(folder / "maps.npy", MADE_FROM, from_array, at_once)
    assert (folder / "maps.npy").read_bytes() == whole
    assert before <= max(0, len(part) - head) // ARRAY[0].nbytes


def test_after_an_error_it_goes_on(tmp_path: Path) -> None:
    path, begun = tmp_path / "maps.npy", []

    def ended(first: int) -> Iterator[np.ndarray]:
        begun.append(first)
        for i, each in enumerate(from_array(first)):
            if i == 2:
                raise Ended
            yield each

    for _ in range(2):
        with pytest.raises(Ended):
            maps.write(path, MADE_FROM, ended, AT_ONCE)
    assert not path.exists()
    assert maps.write(path, MADE_FROM, from_array, AT_ONCE) == 6
    assert begun == [0, 3]
    assert np.array_equal(np.load(path), ARRAY)


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_kill_it_goes_on(tmp_path: Path) -> None:
    args = (tmp_path / "maps.npy", MADE_FROM, slowly, AT_ONCE)
    process = get_context("fork").Process(target=maps.write, args=args)
    process.start()
    partial = tmp_path / ".maps.partial.npy"
    begun = len(np.lib.format.MAGIC_PREFIX) + 2 * AT_ONCE * ARRAY[0].nbytes
    while not (partial.exists() and partial.stat().st_size > begun):
        assert process.exitcode is None
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert maps.write(tmp_path / "maps.npy", MADE_FROM, from_array, AT_ONCE) > 0
    assert np.array_equal(np.load(tmp_path / "maps.npy"), ARRAY)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("field", "value"),
    [("teacher", "b"), ("weights", "1"), ("image_size", 32), ("classes", ("x", "z"))],
)
def test_other_maps_are_never_overwritten(
    field: str, value: Any, whole: bool, tmp_path: Path
) -> None:
    path = tmp_path / "maps.npy"
    maps.write(path, MADE_FROM, from_array, AT_ONCE)
    if not whole:
        path.rename(tmp_path / ".maps.partial.npy")
    other = replace(MADE_FROM, **{field: value})
    with pytest.raises(InputError, match=rf"there are others, whose {field} differ: remove them"):
        maps.write(path, other, from_array, AT_ONCE)


def test_no_other_file_is_lost(tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text('{"my": "own"}')
    with pytest.raises(InputError, match=r"expected in .*maps\.json what label maps are made from"):
        maps.write(tmp_path / "maps.npy", MADE_FROM, from_array, AT_ONCE)
    assert (tmp_path / "maps.json").read_text() == '{"my": "own"}'
    with pytest.raises(InputError, match=r"expected a file \.npy for label maps"):
        maps.write(tmp_path / "maps.pt", MADE_FROM, from_array, AT_ONCE)


def test_a_file_that_is_not_what_is_said_of_it_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "maps.npy"
    with pytest.raises(InputError, match="what label maps are made from"):
        LabelMaps(path)
    maps.write(path, MADE_FROM, from_array, AT_ONCE)
    np.save(path, ARRAY[:5])
    with pytest.raises(InputError, match=r"expected float16 \(11, 2, 5, 3, 2\) in .*got float16 "):
        LabelMaps(path)


def test_they_are_checked_against_the_data_and_handed_over_without_their_array(
    tmp_path: Path,
) -> None:
    path = tmp_path / "maps.npy"
    maps.write(path, MADE_FROM, from_array, AT_ONCE)
    found = LabelMaps(path)
    assert torch.equal(found[3], pickle.loads(pickle.dumps(found))[3])
    assert len(pickle.dumps(found)) < 1000 < ARRAY.nbytes
    found.check(["x", "y"], MADE_FROM.names)
    with pytest.raises(InputError, match="whose classes are others"):
        found.check(["y", "x"], MADE_FROM.names)
    with pytest.raises(InputError, match="whose images are others"):
        found.check(["x", "y"], maps.names_hash(["0"]))


def tiny(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **options).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases are no identities
            nn.init.normal_(parameter, parameter.detach().mean().item(), 0.1)
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_nfnet"])
@torch.no_grad()
def test_a_linear_head_is_applied_at_each_place(name: str) -> None:
    model: Any = tiny(name, num_classes=7)
    x = torch.randn(2, 3, 96, 128)
    found, head = place_logits(model, x), model.get_classifier()
    features = model.forward_features(x)
    as_convolution = nn.functional.conv2d(features, head.weight[:, :, None, None], head.bias)
    assert found.shape == (2, 3, 4, 7)
    torch.testing.assert_close(found, as_convolution.permute(0, 2, 3, 1))
    torch.testing.assert_close(found.mean((1, 2)), model(x))


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout"])
@torch.no_grad()
def test_a_norm_before_the_head_takes_part(name: str) -> None:
    """A place is as good as a map of one place; the second model has channels last."""
    model: Any = tiny(name, num_classes=7)
    x = torch.randn(1, 3, 96, 64)
    features = model.forward_features(x)
    found = place_logits(model, x)
    first = name == "test_convnext"
    alone = features[:, :, 1:2, 1:2] if first else features[:, 1:2, 1:2]
    torch.testing.assert_close(found[:, 1, 1], model.forward_head(alone))


@torch.no_grad()
def test_what_has_no_map_is_no_teacher() -> None:
    with pytest.raises(InputError, match=r"last map is \(N, C, H, W\) of 64 .*VisionTransformer"):
        place_logits(tiny("test_vit"), torch.randn(1, 3, 160, 160))


@pytest.mark.parametrize("classes", [1, 2, 5, 9])
def test_the_five_best_come_first(classes: int) -> None:
    logits = torch.randn(2, 3, 4, classes, generator=torch.Generator().manual_seed(0)).half()
    values, indices = best(logits).unbind(1)
    assert values.shape == (2, 5, 3, 4)
    assert torch.equal(values, values.sort(1, descending=True).values)
    named = logits.movedim(-1, 1).gather(1, indices.long())
    assert torch.equal(named, values)
    assert torch.equal(values[:, 0], logits.amax(-1))
    assert len(set(indices[0, :, 0, 0].tolist())) == min(5, classes)


def test_no_logit_is_lost_in_float16() -> None:
    with pytest.raises(InputError, match="expected finite logits within float16"):
        best(torch.full((1, 1, 1, 7), 1e6))


def test_more_classes_than_float16_counts_are_refused() -> None:
    with pytest.raises(InputError, match="expected a teacher of 1 to 2048 classes, got 3000"):
        of_model(tiny("test_resnet", num_classes=3000), {}, None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of timm on the disk, of two classes."""
    folder = tmp_path_factory.mktemp("teacher")
    if not has_hf_hub():
        pytest.skip("this timm is older than the huggingface_hub that is there")
    save_for_hf(tiny("test_resnet", num_classes=2), str(folder), safe_serialization=True)
    for path in folder.iterdir():
        if path.suffix == ".json":  # timm writes the number of classes twice
            config = json.loads(path.read_text())
            config.get("model_args", {}).pop("num_classes", None)
            path.write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_the_command_makes_the_maps_of_the_training_images_in_their_order(
    teacher: str, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps.npy"
    args = ["label-maps", teacher, str(stripes), str(out), "--workers", "0"]
    main([*args, "--image-size", "96", "--batch-size", "5"])
    assert "maps.npy: 16 label maps of 3 x 3\n" in capsys.readouterr().out
    images = data.originals(TrainConfig(data=str(stripes)))
    found = LabelMaps(out)
    found.check(images.classes, maps.names_hash(images.names))
    assert images.names[0].startswith("across")
    model: Any = timm.create_model(teacher, pretrained=True)
    seen = of_model(model, resolve_model_data_config(model), 96)
    for i in (0, 7, 15):
        expected = seen.maps(seen.inputs(images.images[i])[None])[0]
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-3)
    main([*args, "--image-size", "96"])
    assert "16 of them by an earlier call" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*args, "--image-size", "64"])
    assert "whose image_size, map_size differ: remove them" in capsys.readouterr().err


def test_a_run_is_a_teacher(trained: Trained, stripes: Path, tmp_path: Path) -> None:
    """At the size, and with the mean and deviation, that it was trained with."""
    out = tmp_path / "maps.npy"
    main(["label-maps", str(trained.folder), str(stripes), str(out), "--workers", "0"])
    found = LabelMaps(out)
    assert found.made_from.image_size == 32
    assert found.made_from.map_size == (1, 1)
    image = data.originals(TrainConfig(data=str(stripes))).images[0]
    scaled = resize(image, [32, 32], InterpolationMode.BICUBIC)
    model = load(trained.folder)[1]
    with torch.no_grad():
        logits = model(data.IMAGENET(scaled)[None])[0]
    torch.testing.assert_close(found[0][0, :2, 0, 0], logits.sort(descending=True).values.half())


def test_grey_images_have_as_many_channels_as_the_teacher_takes(tmp_path: Path) -> None:
    images = data.originals(TrainConfig(data="digits"))
    model = tiny("test_resnet", num_classes=10)
    seen = of_model(model, resolve_model_data_config(model), 64)
    assert images.images[0].shape == (1, 8, 8)
    assert seen.inputs(images.images[0]).shape == (3, 64, 64)
    of_grey: dict[str, Any] = {**resolve_model_data_config(model), "input_size": (1, 64, 64)}
    grey = of_model(tiny("test_resnet", in_chans=1), of_grey, None)
    with pytest.raises(InputError, match="a teacher of images with 3 channels, got one for 1"):
        grey.inputs(torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_teacher_of_other_classes_and_no_teacher_are_one_line(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, message in (
        (teacher, "expected a teacher of the 10 classes of the data, got one of 2"),
        ("no_such_model", "expected the folder of a run, or a model of timm with weights, got no_"),
    ):
        with pytest.raises(SystemExit):
            main(["label-maps", name, "digits", str(tmp_path / "maps.npy")])
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_unreadable_images_are_counted_and_too_many_stop_it(
    teacher: str, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for path in stripes.glob("*/*.png"):
        for i in range(8):
            copy = images / path.parent.name / f"{i}-{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    originals = data.originals(TrainConfig(data=str(images)))
    names = [images / name for name in originals.names]
    names[3].write_bytes(b"no image")
    args = ["label-maps", teacher, str(images), str(tmp_path / "maps.npy"), "--workers", "0"]
    main([*args, "--image-size", "32"])
    assert "1 of 128 images cannot be read: cannot read the image" in capsys.readouterr().out
    assert not LabelMaps(tmp_path / "maps.npy")[3].any()
    names[5].write_bytes(b"no image")
    (tmp_path / "maps.npy").unlink()
    with pytest.raises(SystemExit):
        main([*args, "--image-size", "32"])
    assert "2 of 128 images cannot be read" in capsys.readouterr().err
