"""Repositories of models: written, loaded by timm, from a cache of the Hub too, and sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import Tensor

from bilevel import InputError, WeightsError
from bilevel.cli import main
from bilevel.models.config import MODELS, BiFormerConfig
from bilevel.models.model import BiFormer
from bilevel.timm import About, repository, save
from bilevel.train.config import TrainConfig
from bilevel.train.run import load
from tests.train.conftest import QUIET

MICRO = replace(MODELS["biformer_micro"], num_classes=5)
CONFIGS = {
    "named": MICRO,
    "grey": replace(MICRO, in_chans=1, regions=3, padding="official"),
    "of another shape": BiFormerConfig((1, 1), (16, 32), 2, 8, (2, None), num_classes=3),
    "nchw": replace(MODELS["biformer_stl_nchw"], depths=(1, 1, 1, 1), num_classes=2),
    "no head": replace(MICRO, num_classes=0),
    "token labels": replace(MICRO, token_labels=True),
}


def build(config: BiFormerConfig) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(config).eval()


def logits(model: Any, channels: int = 3) -> Tensor:
    x = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(x)


@pytest.mark.parametrize("name", CONFIGS)
def test_timm_loads_what_was_saved(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = build(config)
    folder = save(model, tmp_path / "model")
    again: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert again.config == config
    assert torch.equal(logits(again, config.in_chans), logits(model, config.in_chans))
    once_more = save(again, tmp_path / "again")
    for file in ("model.safetensors", "README.md"):
        assert (once_more / file).read_bytes() == (folder / file).read_bytes()
    for key in ("architecture", "num_classes", "model_args"):
        found = [
            json.loads((each / "config.json").read_text())[key] for each in (folder, once_more)
        ]
        assert found[0] == found[1]


@pytest.mark.parametrize("token_labels", [False, True])
def test_with_another_head(token_labels: bool, tmp_path: Path) -> None:
    model = build(replace(MICRO, token_labels=token_labels))
    folder = save(model, tmp_path / "model")
    other: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=9)
    assert other.head.out_features == 9
    assert not token_labels or other.aux_head.out_features == 9
    body = other.stages.state_dict()
    assert all(torch.equal(body[k], v) for k, v in model.stages.state_dict().items())


def test_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was downloaded before: a cache as huggingface_hub has it."""
    model = build(MICRO)
    cached = tmp_path / "models--me--mine"
    save(model, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = timm.create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_weights_that_the_hub_does_not_give_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here without a network. Where it has no such repository, timm fails before it asks us: then
    the command line has the line."""
    cached = tmp_path / "models--me--mine"
    save(build(MICRO), cached / "snapshots" / "abc")
    (cached / "snapshots" / "abc" / "model.safetensors").unlink()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot read the weights of biformer_micro: ") as error:
        timm.create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    said = last_error(["export", "hf-hub:me/none", str(tmp_path / "model.onnx")], capsys)
    assert "expected a run, or a model for timm, at hf-hub:me/none: " in said


def test_the_card_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    about = About("17 pictures.", {"lr": 0.002}, {"test accuracy": 0.98765})
    said = (save(build(MICRO), tmp_path / "a", "abcde", about) / "README.md").read_text()
    for words in ("library_name: timm", "17 pictures.", "| lr | 0.002 |", "| 0.9877 |", "a, b, c"):
        assert words in said
    bare = (save(build(MICRO), tmp_path / "b") / "README.md").read_text()
    assert not any(title in bare for title in ("## Data", "## Recipe", "## Measured", "license"))


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match=r"expected a new or an empty folder, got .* holds files"):
        save(build(MICRO), tmp_path)
    with pytest.raises(WeightsError, match="expected 5 labels, as classes, got 2"):
        save(build(MICRO), tmp_path / "model", ["a", "b"])
    part: Any = timm.create_model("biformer_micro", features_only=True)
    with pytest.raises(WeightsError, match="expected a whole BiFormer, got FeatureGetterNet"):
        save(part, tmp_path / "model")


@pytest.fixture(scope="module")
def run(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bilevel.train import start

    out = tmp_path_factory.mktemp("push") / "run"
    config = TrainConfig(
        str(stripes), "biformer_micro", image_size=32, epochs=1, batch_size=4, workers=0, out=out
    )
    start.train(config, QUIET)
    return out


def last_error(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_push_refuses_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(repository, "get_token", lambda: None)
    assert "expected a token of the Hugging Face Hub" in last_error(
        ["push", str(run), "me/mine"], capsys
    )
    assert "expected a repository OWNER/NAME" in last_error(["push", str(run), "a//b"], capsys)
    monkeypatch.setattr(repository, "get_token", lambda: "hf_none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot send the model to me/mine: " in last_error(["push", str(run), "me/mine"], capsys)
    assert "expected a run, or a model for timm, at " in last_error(
        ["push", str(run.parent), "me/mine"], capsys
    )


def test_push_sends_a_repository(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Hub:
        """Takes what is sent."""

        def __init__(self, token: str) -> None:
            assert token == "hf_mine"

        def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
            assert (private, exist_ok) == (True, True)
            return f"https://hub/{repo}"

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
            folder_path.rename(tmp_path / "sent")

    monkeypatch.setattr(repository, "get_token", lambda: "hf_mine")
    monkeypatch.setattr(repository, "HfApi", Hub)
    capsys.readouterr()
    main(["push", str(run), "me/mine", "--private"])
    assert capsys.readouterr().out == "https://hub/me/mine\n"
    card = (tmp_path / "sent" / "README.md").read_text()
    for words in ("hf-hub:me/mine", "| epochs | 1 |", "test accuracy", "across, down"):
        assert words in card
    assert str(run) not in card
    config = json.loads((tmp_path / "sent" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    again = timm.create_model(f"local-dir:{tmp_path / 'sent'}", pretrained=True)
    assert torch.equal(logits(again), logits(load(run)[1]))
