"""How many training images one core reads in a second: from a JPEG to what the device takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from bilevel.bench.comparison import Step, compare
from bilevel.bench.results import Row
from bilevel.train import recipes, views
from bilevel.train.data import IMAGENET

WIDTH, HEIGHT, QUALITY = 500, 375, 90
"""About the size of ImageNet's images, and its files are about as large."""
FILES = 16
SIZE = 224

Read = Callable[[str], torch.Tensor]


def rows(device: str, rounds: int) -> dict[str, Callable[[], Row]]:
    """All rows by name, each as a function that measures it; images are read by the CPU, whichever
    the device."""
    plain, full = (recipes.config(name, "images") for name in ("basic", "imagenet"))
    return {
        "crop and flip": partial(
            measured, {"bilevel": _ours(plain), "as floats of Pillow": _floats()}, rounds
        ),
        "recipe of ImageNet": partial(measured, {"bilevel": _ours(full), "timm": _timm()}, rounds),
    }


def measured(readers: Mapping[str, Read], rounds: int) -> Row:
    """Images per second of each way to read them, and how many times as fast ours is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that read images
    try:
        with TemporaryDirectory() as folder:
            paths = written(Path(folder))
            candidates = {name: partial(_steps, read, paths) for name, read in readers.items()}
            found = compare(candidates, rounds, "cpu")
    finally:
        torch.set_num_threads(threads)
    speed = {name: 1000 / each for name, each in found.milliseconds.items()}
    ours = speed.get("bilevel", 0.0)
    ratios = {f"bilevel to {name}": ours / each for name, each in speed.items() if each != ours}
    shape = f"JPEG of {WIDTH} x {HEIGHT} to {SIZE} x {SIZE}"
    return {
        "what": "reading",
        "images": shape,
        "images_per_s": speed,
        "ratios": ratios,
        "left_out": found.left_out,
    }


def written(folder: Path) -> list[str]:
    """JPEG files of smooth shapes and noise, the same each time."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        shapes = Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))
        smooth = np.asarray(shapes.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        noisy = smooth + rng.normal(0, 8, smooth.shape)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=QUALITY)
    return paths


def _steps(read: Read, paths: Sequence[str]) -> list[Step]:
    return [partial(_once, read, path) for path in paths]


def _once(read: Read, path: str) -> tuple[torch.Tensor]:
    return (read(path),)


def _ours(config: Any) -> Read:
    return views.of_files(views.read_rgb, views.train_view(replace(config, image_size=SIZE)))


def _floats() -> Read:
    """What training did before: Pillow crops, and the process that reads normalises."""
    crop = v2.RandomResizedCrop(SIZE, interpolation=v2.InterpolationMode.BICUBIC)
    as_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)]
    return v2.Compose([_opened, crop, v2.RandomHorizontalFlip(), *as_float])


def _timm() -> Read:
    """The transform that the official training makes, on the CPU alone."""
    from timm.data import create_transform

    transform: Any = create_transform(
        SIZE,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
    )
    return lambda path: transform(_opened(path))


def _opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
