"""From image files to a model's input, and the model that comes with bilevel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.model_selection import train_test_split

from bilevel import ArgumentError, InputError
from bilevel.visual import images, sample


@pytest.mark.parametrize("size", [(90, 60), (64, 64), (33, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_image_is_scaled_and_normalised(size: tuple[int, int], channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*reversed(size), 3), np.uint8)
    made = images.prepare(Image.fromarray(pixels), channels, {"input_size": (3, 32, 32)})
    height, width = made.picture.shape[:2]
    assert min(height, width) == 32
    assert abs(width / height - size[0] / size[1]) < 0.05 * size[0] / size[1]
    known = images.IMAGENET if channels == 3 else images.GREY
    back = made.image[0].transpose(1, 2, 0) * known["std"] + known["mean"]
    np.testing.assert_allclose(back * 255, made.picture, atol=1e-3)
    assert made.image.dtype == np.float32
    assert made.pixel(None) == (width // 2, height // 2)
    assert made.pixel((size[0] - 1, 0))[0] >= width - 1 - width // size[0]
    with pytest.raises(ArgumentError, match=rf"from 0 to {size[1] - 1}, the pixels of the image"):
        made.pixel((0, size[1]))


def test_files_are_read_upright_and_in_eight_bits(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 0x8000, np.uint16)).save(deep)
    assert images.read(deep).getpixel((0, 0)) == (128, 128, 128)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 4)).save(turned, exif=exif)
    assert images.read(turned).size == (4, 8)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*broken\.png"):
        images.read(tmp_path / "broken.png")


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(InputError, match="expected a model of images with 1 or 3 channels, got 4"):
        images.prepare(Image.new("RGB", (8, 8)), 4, {})


def test_the_model_that_comes_with_bilevel_knows_its_digits() -> None:
    """As well as is written beside it, on the digits that it was not trained on."""
    found, known = sample.load(), sample.about()
    pixels, labels = sample.digits()
    settings = {"test_size": 0.2, "stratify": labels, "random_state": known["settings"]["seed"]}
    _, test, _, wanted = train_test_split(pixels, labels, **settings)
    inputs = [images.prepare(Image.fromarray(x), 1, found.preprocessing).image for x in test[:100]]
    with torch.inference_mode():
        right = found.model(torch.from_numpy(np.concatenate(inputs))).argmax(1).numpy()
    assert (right == wanted[:100]).mean() >= known["test_accuracy"] - 0.02
    assert known["test_accuracy"] > 0.97


def test_its_weights_are_small_and_in_half_precision() -> None:
    path = Path(str(sample.FOLDER)) / "digits.safetensors"
    assert path.stat().st_size < 3_000_000
    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert kinds == {"F16", "I64"}
