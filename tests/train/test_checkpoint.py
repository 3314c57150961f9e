"""The file of a state: whole or not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from bilevel import InputError, WeightsError
from bilevel.train import checkpoint, run, table
from bilevel.train.config import TrainConfig
from bilevel.train.data import Batch
from bilevel.train.keeping import best_epoch
from bilevel.train.step import State, initial_state, step


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_checkpoint_that_fails_to_be_written_leaves_the_old_one(
    error: type[Exception], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, model = run.load(copied)
    path = trained.checkpoint()
    before = path.read_bytes()
    state = initial_state(model, trained.config, 4)

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise error("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*: No space left"):
        checkpoint.write(path, checkpoint.content(state, 1, {}, None))
    assert path.read_bytes() == before
    assert not [path for path in copied.rglob("*") if "partial" in path.name]


def test_weights_of_another_model_are_refused_and_change_nothing(copied: Path) -> None:
    trained, _ = run.load(copied)
    saved = checkpoint.read(trained.checkpoint(), "cpu")
    assert saved.position[:3] == (12, 3, trained.lasting())
    other = torch.nn.Linear(3, 2)
    before = other.weight.clone()
    with pytest.raises(WeightsError, match="expected the 2 parameters of the model of"):
        checkpoint.load_model(other, saved.tensors, trained.checkpoint())
    assert torch.equal(other.weight, before)


def test_weights_of_any_strides_are_saved_and_come_back(copied: Path, tmp_path: Path) -> None:
    """As channels_last has them, or what a tool transposed."""
    trained, model = run.load(copied)
    expected = {name: x.clone() for name, x in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    state = initial_state(model, trained.config, 4)
    path = tmp_path / "strided.safetensors"
    checkpoint.write(path, checkpoint.content(state, 1, {}, None))
    _, again = run.load(copied)
    checkpoint.load_model(again, checkpoint.read(path, "cpu").tensors, path)
    for name, x in again.state_dict().items():
        assert torch.equal(x, expected[name])


@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb", "nadamw"])
def test_a_state_comes_back_to_the_bits(opt: str, config: TrainConfig, tmp_path: Path) -> None:
    """Also of optimizers that count their steps in their groups, and with sums of an epoch."""
    changed = replace(config, opt=opt, model_ema_decay=0.9)

    def begun(seed: int) -> State:
        torch.manual_seed(seed)
        return initial_state(run.build_model(changed, changed.architecture(2, 3)), changed, 4)

    batches = [Batch(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])) for _ in range(3)]
    state, sums = step(begun(0), batches[0])
    state, _ = step(state, batches[1])
    path = tmp_path / "checkpoints" / "step-2.safetensors"
    checkpoint.write(path, checkpoint.content(state, 0, {"a": 1}, sums))
    other, found = checkpoint.restore(begun(1), checkpoint.read(path, "cpu"), path)
    assert found is not None
    assert (other.step, found.images) == (2, 4)
    assert found.means() == sums.means()
    for each in (state, other):
        torch.manual_seed(7)
        step(each, batches[2])
    a, b = (checkpoint.content(each, 0, {}, None) for each in (state, other))
    assert a.position == b.position
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    assert len([name for name in a.tensors if name.startswith("optimizer.")]) > 100


def test_the_last_three_are_kept_and_the_best(tmp_path: Path) -> None:
    for number in (2, 4, 6, 8, 10, 12, 100):
        checkpoint.path_of(tmp_path, number).touch()
    checkpoint.prune(tmp_path, 4)
    assert checkpoint.steps(tmp_path) == [100, 12, 10, 4]
    checkpoint.prune(tmp_path, 100)
    assert checkpoint.steps(tmp_path) == [100, 12, 10]


def test_the_best_epoch_is_the_first_of_the_best_tests() -> None:
    scores = [(0.1, 0.5), (0.3, 0.9), (0.9, 0.9), (0.2, 0.7)]
    rows = [
        table.row(i, 0.0, {}, {"loss": loss, "accuracy": right}, {"accuracy": 1.0 - right}, 1.0)
        for i, (loss, right) in enumerate(scores, 1)
    ]
    assert best_epoch(rows) == 2
