"""The file of a state: whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from bilevel import InputError, WeightsError
from bilevel.train import checkpoint, run
from bilevel.train.step import initial_state


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_checkpoint_that_fails_to_be_written_leaves_the_old_one(
    error: type[Exception], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, model = run.load(copied)
    before = trained.checkpoint.read_bytes()
    state = initial_state(model, trained.config, 4)

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise error("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*: No space left"):
        checkpoint.save(trained.checkpoint, state, 1, {})
    assert trained.checkpoint.read_bytes() == before
    assert not [path for path in copied.iterdir() if "partial" in path.name]


def test_weights_of_another_model_are_refused_and_change_nothing(copied: Path) -> None:
    trained, _ = run.load(copied)
    tensors, position = checkpoint.read(trained.checkpoint, "cpu")
    assert position == (12, 3, trained.lasting())
    other = torch.nn.Linear(3, 2)
    before = other.weight.clone()
    with pytest.raises(WeightsError, match="expected the 2 parameters of the model of"):
        checkpoint.load_model(other, tensors, trained.checkpoint)
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
    checkpoint.save(tmp_path / "strided.safetensors", state, 1, {})
    _, again = run.load(copied)
    tensors, _ = checkpoint.read(tmp_path / "strided.safetensors", "cpu")
    checkpoint.load_model(again, tensors, tmp_path)
    for name, x in again.state_dict().items():
        assert torch.equal(x, expected[name])
