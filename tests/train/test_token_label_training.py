"""Training with label maps: from the file to a model with two heads, and on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from bilevel import InputError
from bilevel.cli import main
from bilevel.models import BiFormer
from bilevel.models.token_labels import TokenLogits
from bilevel.train import data, draws, start
from bilevel.train.config import TrainConfig
from bilevel.train.loader import Planned, plan_of
from bilevel.train.recipes import config as by_recipe
from bilevel.train.run import load, reopen
from bilevel.train.step import initial_state, step
from bilevel.train.tasks import task_of
from bilevel.train.token_labels import loss, maps, targets
from bilevel.train.token_labels.maps import MadeFrom
from bilevel.train.token_labels.packing import packed, unpacked
from tests.frameworks import FAKE_CUDA
from tests.train.conftest import QUIET


@pytest.fixture(scope="module")
def label_maps(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps 3 x 3 of a teacher that is sure of each class, for the striped images."""
    images = data.originals(TrainConfig(data=str(stripes)))
    of = [images.classes.index(name.split("/")[0]) for name in images.names]
    names = maps.names_hash(images.names)
    made = MadeFrom("sure", "0", 96, (3, 3), tuple(images.classes), len(of), names)

    def all_of_them(first: int) -> Iterator[np.ndarray]:
        for label in of[first:]:
            label_map = np.zeros(made.shape[1:], np.float16)
            label_map[0, 0], label_map[1] = 5, 1 - label
            label_map[1, 0] = label
            yield label_map[None]

    path = tmp_path_factory.mktemp("maps") / "maps.npy"
    maps.write(path, made, all_of_them, 1)
    return path


@pytest.fixture
def with_maps(config: TrainConfig, label_maps: Path) -> TrainConfig:
    return replace(config, label_maps=label_maps, image_size=64, aa="rand-m5-inc1", epochs=2)


def test_a_run_with_label_maps_trains_resumes_and_is_tested(
    with_maps: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    measured = start.train(replace(with_maps, out=whole), QUIET)
    start.train(replace(with_maps, out=again, epochs=1), QUIET)
    settings = (again / "config.json").read_text()
    (again / "config.json").write_text(settings.replace('"epochs": 1', '"epochs": 2'))
    run, model = load(whole)
    assert run.architecture.token_labels
    assert isinstance(model, BiFormer)
    assert isinstance(model.aux_head, nn.Linear)
    assert reopen(whole).config.label_maps == with_maps.label_maps.resolve()
    main(["eval", str(whole)])
    assert f"test accuracy {measured['accuracy']:.4f}" in capsys.readouterr().out
    assert start.resume(again, QUIET).keys() == measured.keys()


def test_any_number_of_workers_reads_the_same(with_maps: TrainConfig) -> None:
    found = []
    for workers in (0, 2):
        config = replace(with_maps, workers=workers)
        images = data.find(config)
        planned = Planned(images, plan_of(config, images), config)
        found.append(list(planned.steps(0, 6)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert found[0][0].labels.shape == (4, 3, 5, 3, 3)


class Fixed(nn.Module):
    """Logits that are parameters, and the places it was given."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.pooled = nn.Parameter(torch.randn(4, 2, generator=draw))
        self.dense = nn.Parameter(torch.randn(4, 3, 3, 2, generator=draw))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, places: Tensor | None = None) -> Any:
        if places is None:
            return self.pooled
        self.seen.append(places)
        return TokenLogits(self.pooled, self.dense)


def batch_of_labels(maps_of: Any = None) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    maps_of = torch.randn(4, 2, 5, 3, 3, generator=draw).abs().floor().clamp(0, 1)
    return torch.stack(
        [packed(each, (0.1, 0.2, 0.5, 0.6), i % 2) for i, each in enumerate(maps_of)]
    )


def test_the_task_draws_a_box_of_each_step_and_weighs_the_loss(with_maps: TrainConfig) -> None:
    config, labels = replace(with_maps, dense_weight=0.3, label_axes="official"), batch_of_labels()
    task, model, images = task_of(config), Fixed().train(), torch.zeros(4, 3, 96, 96)
    for seed in range(6):
        for _ in range(2):
            draws.seed_all(seed)
            outputs = task.outputs(model, images, labels)
        found, sums = task.loss(outputs, labels)
        wanted = targets(*unpacked(labels), 3, 2, smoothing=config.label_smoothing, axes="official")
        expected = loss(outputs.logits, wanted, model.seen[-1], dense_weight=0.3)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(sums["loss"], 4 * expected.detach())
        assert 0 <= sums["accuracy"] <= 4
    assert all(torch.equal(a, b) for a, b in zip(model.seen[::2], model.seen[1::2], strict=True))
    assert len({tuple(each.flatten().tolist()) for each in model.seen}) > 1
    assert torch.equal(task.outputs(model.eval(), images, labels), model.pooled)


def test_a_step_in_parts_is_a_step(with_maps: TrainConfig) -> None:
    """Labels are cut like any others."""
    config = replace(with_maps, grad_accum_steps=2, batch_size=4, model_ema_decay=0.9)
    torch.manual_seed(0)
    state = initial_state(BiFormer(config.architecture(2, 3)), config, 4)
    images = torch.randn(4, 3, 64, 64)
    state, sums = step(state, data.Batch(images, batch_of_labels()))
    assert sums.images == 4
    assert np.isfinite(sums.mean("loss"))


@FAKE_CUDA
def test_the_loss_never_waits_for_the_device(with_maps: TrainConfig) -> None:
    """Fake tensors have no values: what asks for one raises."""
    task = task_of(with_maps)
    with FakeTensorMode():
        labels = torch.empty(4, 3, 5, 3, 3, device="cuda")
        pooled, dense = torch.empty(4, 2, device="cuda"), torch.empty(4, 2, 2, 2, device="cuda")
        places = torch.empty(2, 2, dtype=torch.bool, device="cuda")
        outputs: Any = (TokenLogits(pooled, dense), places)
        found, sums = task.loss(outputs, labels)
        assert {found.device.type, sums["accuracy"].device.type} == {"cuda"}


def test_what_cannot_be_is_one_clear_error(
    with_maps: TrainConfig, stripes: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected no mixup or cutmix with label maps"):
        start.train(replace(with_maps, mixup=0.8, out=tmp_path / "run"), QUIET)
    recipe = by_recipe("token-labels", str(stripes), model="biformer_micro", workers=0)
    small = replace(recipe, out=tmp_path / "run", image_size=32, batch_size=4)
    with pytest.raises(InputError, match="expected --label-maps FILE for the recipe token-labels"):
        start.train(small, QUIET)
    with pytest.raises(InputError, match="expected label maps of the training images"):
        data.find(replace(with_maps, data="digits"))
    with pytest.raises(InputError, match="what label maps are made from"):
        data.find(replace(with_maps, label_maps=tmp_path / "none.npy"))
