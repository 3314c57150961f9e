"""Models as repositories of the Hugging Face Hub: a folder with a config, weights and a card, which
timm and transformers load from the disk or from the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors.torch import save_file

from bilevel.errors import InputError, WeightsError
from bilevel.files import replacing
from bilevel.models.config import MODELS, BiFormerConfig
from bilevel.models.model import BiFormer
from bilevel.timm.biformer import FIELDS, SIZES, pretrained_cfg

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
NOT_OF_THE_WEIGHTS = (
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"),
    *("architecture", "tag", "license", "label_names", "label_descriptions"),
)
"""What timm knows of where weights came from, and what is said elsewhere in a repository or not."""
AT_ROOT = ("num_classes",)  # timm's and transformers' config has it once, outside the arguments


@dataclass(frozen=True)
class About:
    """What is known of how a model came to be, for its card; nothing is made up of the rest."""

    data: str = ""
    """What it was trained on, in a sentence."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings of training by name."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name."""


def save(
    model: BiFormer,
    folder: str | Path,
    labels: Sequence[str] = (),
    about: About | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as a repository, for ``timm.create_model("local-dir:FOLDER", pretrained=True)``
    and for ``from_pretrained`` of transformers' TimmWrapper models.

    Parameters
    ----------
    model
        Any BiFormer, of timm's registry or not.
    folder
        Where to, a new or an empty folder: ``config.json``, ``model.safetensors``, ``README.md``.
    labels
        Names of the classes in their order, if they are known.
    about
        What the card says of data, recipe and numbers.
    preprocessing
        What differs in ``pretrained_cfg`` from that of the named model, such as ``input_size``
        (C, H, W), ``mean`` and ``std`` (one number per channel). Where there are other channels
        than three and nothing is said, mean and deviation are 0.5.

    Raises
    ------
    InputError
        If the folder holds something, or cannot be written.
    WeightsError
        If it is no whole BiFormer, or there are other than ``num_classes`` labels.
    """
    folder = Path(folder)
    config = settings(model, labels, preprocessing or {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"expected a new or an empty folder, got {folder}, which holds files")
        with replacing(folder / WEIGHTS) as partial:
            weights = {name: x.contiguous() for name, x in model.state_dict().items()}
            save_file(weights, partial, {"format": "pt"})
        for name, text in (
            (CONFIG, json.dumps(config, indent=2) + "\n"),
            (CARD, card(config, about or About())),
        ):
            with replacing(folder / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the model into {folder}: {error}") from error
    return folder


def settings(
    model: BiFormer, labels: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of ``config.json``: the named model that is nearest, and what differs from it."""
    if not isinstance(model, BiFormer) or len(model.stages) != len(model.config.depths):
        raise WeightsError(f"expected a whole BiFormer, got {type(model).__name__}")
    config = model.config
    if labels and len(labels) != config.num_classes:
        raise WeightsError(f"expected {config.num_classes} labels, as classes, got {len(labels)}")
    name = min(MODELS, key=lambda name: len(_changes(config, MODELS[name])))
    of_timm = getattr(model, "pretrained_cfg", None) or pretrained_cfg(config, SIZES[name])
    known = {key: value for key, value in of_timm.items() if key not in NOT_OF_THE_WEIGHTS}
    known |= {"num_classes": config.num_classes, **(preprocessing or {})}
    known["input_size"] = [config.in_chans, *known["input_size"][1:]]
    for key in ("mean", "std"):
        if len(known[key]) not in (1, config.in_chans):
            known[key] = [0.5] * config.in_chans
    pool = {"global_pool": model.global_pool} if model.global_pool else {}
    return {
        "architecture": name,
        "num_classes": config.num_classes,
        "num_features": model.num_features,
        **pool,
        **({"label_names": list(labels)} if labels else {}),
        "model_args": _changes(config, MODELS[name]) | ({} if pool else {"global_pool": ""}),
        "pretrained_cfg": known,
    }


def _changes(config: BiFormerConfig, named: BiFormerConfig) -> dict[str, Any]:
    """Fields that differ, by the names of the arguments that ``timm.create_model`` takes."""
    ours, theirs = config.to_dict(), named.to_dict()
    return {
        FIELDS[name]: value
        for name, value in ours.items()
        if value != theirs[name] and name not in AT_ROOT
    }


def card(config: Mapping[str, Any], about: About) -> str:
    """The text of ``README.md``: what the model is, how to load it, what is known of it."""
    name = config["architecture"]
    head = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transformers", "biformer"],
    )
    size = " x ".join(map(str, config["pretrained_cfg"]["input_size"]))
    classes, labels = config["num_classes"], ", ".join(config.get("label_names", ()))
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n# {name}\n",
        WHAT.format(classes=classes, size=size),
        _section("Data", about.data),
        _table("Recipe", about.recipe),
        _table("Measured", {k: f"{v:.4f}" for k, v in about.numbers.items()}),
        _section("Classes", labels),
        _section("Use", USE),
    ]
    return "\n".join(part for part in parts if part)


WHAT = """\
A [BiFormer](https://arxiv.org/abs/2303.08810) with {classes} classes, for images of {size}
(channels, height, width), saved by bilevel.
"""
USE = """\
```python
import bilevel.timm  # registers the architecture
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
```"""


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n" if text else ""


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"## {title}\n\n| | |\n|---|---|\n{rows}\n" if rows else ""


def push(
    model: BiFormer,
    repo: str,
    labels: Sequence[str] = (),
    about: About | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    private: bool = False,
) -> str:
    """Send a model to a repository of the Hugging Face Hub, made if it is not there; its address.

    The other arguments are those of :func:`save`. Raises InputError if there is no token, the name
    is none, or the Hub cannot be reached or refuses.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected a repository OWNER/NAME, got {repo!r}: {reason}") from error
    token = get_token()
    if token is None:
        raise InputError(
            "expected a token of the Hugging Face Hub, found none; "
            "log in with `hf auth login`, or set HF_TOKEN"
        )
    with TemporaryDirectory() as temporary:
        folder = save(model, Path(temporary) / "model", labels, about, preprocessing)
        readme = folder / CARD
        text = readme.read_text(encoding="utf-8").replace("OWNER/NAME", repo)
        with replacing(readme) as partial:
            partial.write_text(text, encoding="utf-8")
        return _upload(folder, repo, token, private)


def _upload(folder: Path, repo: str, token: str, private: bool) -> str:
    hub = HfApi(token=token)
    try:
        address = hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Save a model")
    except Exception as error:  # which ones there are, differs with the version and its transport
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot send the model to {repo}: {reason}") from error
    return str(address)
