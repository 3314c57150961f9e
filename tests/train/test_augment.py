"""Augmentation: what is drawn, from which seed, and that it is what timm does."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from bilevel import ArgumentError, InputError
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.train import draws, views
from bilevel.train.augment import Mixing, erase
from bilevel.train.config import Erased, Interpolation, TrainConfig
from bilevel.train.data import Batch
from bilevel.train.plan import rows
from bilevel.train.randaugment import Augmentation, posterize
from bilevel.train.step import initial_state, step
from bilevel.train.tasks import task_of

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))

CONFIG = TrainConfig(data="", image_size=32, label_smoothing=0.0)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_what_is_erased_is_what_timm_would(seed: int) -> None:
    draw = random.Random(seed)
    shape = (1, draw.choice((1, 3)), draw.randint(4, 40), draw.randint(4, 40))
    ours = erase(torch.full(shape, 9.0), [seed], 0.75, "const")
    random.seed(seed)
    theirs: Tensor = RandomErasing(0.75, mode="const", device="cpu")(torch.full(shape, 9.0))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_noise_is_the_images_own(mode: Erased) -> None:
    seeds = list(range(40, 56))
    whole = erase(torch.full((16, 3, 24, 24), 9.0), seeds, 1.0, mode)
    for begin in (0, 5):
        part = erase(torch.full((6, 3, 24, 24), 9.0), seeds[begin : begin + 6], 1.0, mode)
        assert torch.equal(part, whole[begin : begin + 6])
    noise = whole[whole != 9.0]
    assert noise.numel() > 0
    values = noise.unique().numel()
    assert values == {"pixel": values, "rand": 48, "const": 1}[mode]
    if mode == "pixel":
        assert values > 0.99 * noise.numel()
        assert float(noise.mean()) == pytest.approx(0, abs=0.1)
        assert float(noise.std()) == pytest.approx(1, abs=0.1)


def test_images_are_erased_at_their_probability() -> None:
    images = erase(torch.full((2000, 1, 8, 8), 9.0), range(2000), 0.25, "const")
    assert float((images != 9.0).any(-1).any(-1).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(erase(images.clone(), range(2000), 0.0, "const"), images)


def batch_of(images: int, classes: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(images)
    pixels = torch.randn(images, 3, 16, 16, generator=generator)
    return Batch(pixels, torch.arange(images) % classes)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_batches_are_mixed_by_timm_whatever_the_number_of_ranks(seed: int) -> None:
    draw = random.Random(seed)
    values: dict[str, Any] = {
        "mixup": draw.choice((0.0, 0.8)), "cutmix": 1.0,
        "mixup_prob": draw.choice((0.5, 1.0)), "mixup_switch_prob": draw.random(),
    }  # fmt: skip
    mixing, whole = Mixing(replace(CONFIG, **values), 5), batch_of(24)
    before = whole.images.clone()
    by_row: dict[int, tuple[Tensor, Tensor]] = {}
    for ranks in (1, 2, 3):
        for rank in range(ranks):
            mine = rows(24, ranks, rank)
            draws.seed_all(seed)
            mixed = mixing(Batch(whole.images[mine], whole.labels[mine]))
            assert torch.allclose(mixed.labels.sum(1), torch.ones(len(mine)))
            for i, row in enumerate(mine):
                image, label = by_row.setdefault(row, (mixed.images[i], mixed.labels[i]))
                assert torch.equal(mixed.images[i], image)
                assert torch.equal(mixed.labels[i], label)
    assert torch.equal(whole.images, before)
    order = rows(24, 1, 0)
    theirs = Mixup(
        values["mixup"], 1.0, None, values["mixup_prob"], values["mixup_switch_prob"],
        label_smoothing=0.0, num_classes=5,
    )  # fmt: skip
    draws.seed_all(seed)
    images, labels = theirs(whole.images[order], whole.labels[order])
    assert torch.equal(torch.stack([by_row[row][0] for row in order]), images)
    assert torch.equal(torch.stack([by_row[row][1] for row in order]), labels)


def test_an_odd_batch_cannot_be_mixed() -> None:
    with pytest.raises(InputError, match="an even number of images for mixup or cutmix, got 3"):
        Mixing(replace(CONFIG, mixup=0.5), 5)(batch_of(3))


def test_the_loss_of_mixed_labels_is_their_mean_and_accuracy_their_share() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    hard = [torch.tensor([0, 2]), torch.tensor([2, 1])]
    mixed = 0.75 * torch.eye(3)[hard[0]] + 0.25 * torch.eye(3)[hard[1]]
    for smoothing in (0.0, 0.1):
        task = task_of(replace(CONFIG, label_smoothing=smoothing))
        (loss, sums), *single = (task.loss(logits, labels) for labels in (mixed, *hard))
        expected = 0.75 * single[0][0] + 0.25 * single[1][0]
        torch.testing.assert_close(loss, expected)
        assert float(sums["accuracy"]) == pytest.approx(0.75 + 0.25)


def test_a_step_mixes_its_batch() -> None:
    model = BiFormer(
        BiFormerConfig(depths=(1,), embed_dims=(32,), topk=(None,), regions=2, num_classes=5)
    )
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    batch = batch_of(4)
    cases: list[dict[str, Any]] = [
        {}, {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "mixup_prob": 0.0}
    ]  # fmt: skip
    for values in cases:
        state = initial_state(model, replace(CONFIG, **values), 1)
        draws.seed_all(3)
        step(state, batch)
    assert [torch.equal(images, batch.images) for images in seen] == [True, False, False, True]
    with pytest.raises(ArgumentError, match="a model that tells classes apart for mixup"):
        initial_state(torch.nn.Linear(2, 2), replace(CONFIG, mixup=0.5), 1)


def picture(channels: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m10-n4-p1-inc1", "rand-mstd101-t3a", "original", "v0r"]
)
def test_policies_keep_size_and_type_and_follow_the_seed(policy: str, channels: int) -> None:
    augment, image = Augmentation(policy, 32, channels, "random"), picture(channels)
    seen = []
    for seed in (*range(60), *range(60)):
        draws.seed_all(seed)
        seen.append(augment(image))
    assert {(tuple(each.shape), each.dtype) for each in seen} == {((channels, 32, 32), torch.uint8)}
    assert all(map(torch.equal, seen[:60], seen[60:]))
    assert len({each.numpy().tobytes() for each in seen}) > 10


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_no_bits_are_black_with_any_pillow(
    refuses: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def posterized(image: Image.Image, bits: int) -> Image.Image:
        asked.append(bits)
        if refuses and bits < 1:  # as Pillow does from version 13 on
            raise ValueError("bits must be at least 1")
        return image.point([i & ~(2 ** (8 - bits) - 1) for i in range(256)] * len(image.getbands()))

    monkeypatch.setattr(ImageOps, "posterize", posterized)
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)
    for bits in range(9):
        kept = {value & ~(2 ** (8 - bits) - 1) & 255 for value in range(256)}
        assert {x for _, x in posterize(image.convert("L"), bits).getcolors() or ()} == kept
    assert 1 in asked
    draws.seed_all(0)
    greatest = Augmentation("rand-m10-n9-p1-inc1", 16, len(mode), "bilinear")
    for _ in range(40):
        greatest(picture(len(mode), 16))


def test_what_timm_cannot_read_is_an_error() -> None:
    for policy in ("rand-x9", "rand-m9-q1", "nothing", ""):
        with pytest.raises(ArgumentError, match="expected aa to be as timm writes it, such as"):
            Augmentation(policy, 32, 3, "bicubic")


def test_crops_are_interpolated_as_asked_for() -> None:
    image = picture(3, 48)
    found: dict[Interpolation, list[Tensor]] = {}
    names: tuple[Interpolation, ...] = ("bicubic", "bilinear", "random")
    for name in names:
        view = views.train_view(replace(CONFIG, train_interpolation=name, hflip=0.0))
        found[name] = []
        for seed in range(12):
            torch.manual_seed(seed)
            found[name].append(view(image))
    assert not any(map(torch.equal, found["bicubic"], found["bilinear"]))
    sizes = {len({each.numpy().tobytes() for each in crops}) for crops in found.values()}
    assert sizes == {12}


def test_random_interpolation_draws_both() -> None:
    flat = replace(CONFIG, train_interpolation="random")
    crop: Any = views.train_view(flat).transforms[0]
    torch.manual_seed(0)
    used = set()
    for each in crop.transforms:
        each.register_forward_hook(lambda module, args, out: used.add(module.interpolation))
    for _ in range(20):
        crop(picture(3))
    assert {mode.value for mode in used} == {"bicubic", "bilinear"}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_images_are_mirrored_at_their_probability(share: float) -> None:
    half = torch.zeros(3, 40, 40, dtype=torch.uint8)
    half[:, :, :20] = 255
    view = views.train_view(replace(CONFIG, hflip=share))
    left = []
    for seed in range(20):
        torch.manual_seed(seed)
        seen = view(half).float()
        left.append(float(seen[..., :4].mean() - seen[..., -4:].mean()))
    assert all(x <= 0 for x in left) if share else all(x >= 0 for x in left)
    assert any(left)
