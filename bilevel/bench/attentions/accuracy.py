"""Accuracy of a mixer after one training budget, on real images, by the trainer's own steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bilevel.compare import MICRO, build
from bilevel.train import fashion_mnist
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.step import evaluate, initial_state, step

BUDGET = TrainConfig(
    data="fashion-mnist",
    model="biformer_micro",  # which is not what is trained: the layout is
    image_size=112,
    epochs=3,
    batch_size=128,
    lr=2e-3,
    warmup_epochs=0.3,
    label_smoothing=0.1,
    drop_path=MICRO.drop_path,
    workers=0,
)
"""The same for every mixer: images of 28 x 28 pixels, enlarged to 112 x 112, so that the maps have
28, 14 and 7 tokens on an axis, as those of the last three stages at 224 x 224 have."""

SETTINGS = (
    *("image_size", "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs"),
    *("label_smoothing", "drop_path"),
)
"""The fields of a budget that results depend on."""

MOST_SHIFTED = 2
"""Pixels by which an image is moved in training, at most."""


def settings(budget: TrainConfig) -> dict[str, Any]:
    """What is saved with results, to know their budget by."""
    return {name: getattr(budget, name) for name in SETTINGS} | {
        "depths": list(MICRO.depths),
        "embed_dims": list(MICRO.embed_dims),
    }


class Split(NamedTuple):
    """Images uint8 ``(N, 1, 28, 28)`` and labels int64 ``(N,)``."""

    images: Tensor
    labels: Tensor


def accuracy(mixer: str, seed: int, budget: TrainConfig) -> float:
    """The share of the test images that a mixer in the small layout names rightly, after training
    with a budget from a seed.

    Raises InputError if Fashion-MNIST is not found.
    """
    train, test = splits(budget)
    torch.manual_seed(seed)
    classes = len(fashion_mnist.CLASSES)
    model = build(mixer, MICRO, budget.image_size, classes, in_chans=1)
    model, config = model.to(budget.device), replace(budget, seed=seed)
    steps = len(train.labels) // budget.batch_size
    state = initial_state(model, config, steps)
    for _ in range(budget.epochs):
        for batch in _shuffled(train, config):
            state, _sums = step(state, batch)
    found = evaluate(state.task, state.model, _in_order(test, config))
    return found["accuracy"]


def splits(budget: TrainConfig) -> tuple[Split, Split]:
    """The images to train and to test on."""
    *found, _ = fashion_mnist.read(budget.data_dir, budget.dataset_download)
    train, test = (
        Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())
        for images, labels in found
    )
    return train, test


def _shuffled(split: Split, config: TrainConfig) -> Iterator[Batch]:
    """Batches in random order, mirrored and moved at random, without a rest that fills none."""
    order = torch.randperm(len(split.labels))
    for index in torch.split(order, config.batch_size):
        if len(index) == config.batch_size:
            images = _moved(split.images[index])
            mirrored = torch.rand(len(index)) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
            yield _batch(images, split.labels[index], config)


def _in_order(split: Split, config: TrainConfig) -> Iterator[Batch]:
    for images, labels in zip(*(torch.split(x, config.batch_size) for x in split), strict=True):
        yield _batch(images, labels, config)


def _moved(images: Tensor) -> Tensor:
    """All images of a batch moved by the same few pixels."""
    size, pad = images.shape[-1], MOST_SHIFTED
    top, left = torch.randint(2 * pad + 1, (2,)).tolist()
    return F.pad(images, (pad,) * 4)[..., top : top + size, left : left + size]


def _batch(images: Tensor, labels: Tensor, config: TrainConfig) -> Batch:
    """Enlarged images, from -1 to 1, and their labels, on the device."""
    pixels, labels = Batch(images, labels).to(config.device)
    size = (config.image_size, config.image_size)
    return Batch(F.interpolate(pixels.float(), size=size, mode="bilinear") / 127.5 - 1, labels)
