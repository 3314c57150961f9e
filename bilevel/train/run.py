"""The folder of a run: what is in it, how it is begun and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import nn

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.models import BiFormerConfig
from bilevel.train import checkpoint, data
from bilevel.train.config import TrainConfig
from bilevel.train.folders import ARCHITECTURE, CONFIG, DATA
from bilevel.train.recipes import deviations, recipe_of
from bilevel.train.tasks import task_of

MAY_CHANGE = (
    *("data", "data_dir", "dataset_download", "label_maps", "workers", "device", "out"),
    *("channels_last", "compile", "checkpoint_blocks", "shard", "save_minutes"),
)
"""Settings that say where and how a run is computed, not what; nothing is said of a change."""


DEVIATIONS = "deviations"
"""A field for people to read: where settings leave their recipe."""
EARLIER = "checkpoint.safetensors"
"""The checkpoint that earlier versions kept, with models that are read as before."""


@dataclass(frozen=True)
class Run:
    """A folder, and what was settled when its run began."""

    folder: Path
    config: TrainConfig
    architecture: BiFormerConfig
    """The whole model: a name may mean another one in a later version."""
    data: data.Summary

    def settings(self) -> dict[str, Any]:
        """The config and the model, as types that JSON has."""
        config = asdict(self.config) | {"out": self.folder}
        told = {name: str(x) if isinstance(x, Path) else x for name, x in config.items()}
        return told | {ARCHITECTURE: self.architecture.to_dict()}

    def saved(self) -> dict[str, Any]:
        """The settings, and where they leave their recipe: the recipe's value and the run's."""
        return self.settings() | {DEVIATIONS: deviations(self.config)}

    def lasting(self) -> dict[str, Any]:
        """Those of the settings that a run which goes on must keep, and its epochs."""
        return {name: v for name, v in self.settings().items() if name not in MAY_CHANGE}

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    def checkpoint(self) -> Path:
        """The newest checkpoint that is whole; in a run of an earlier version, its only one.

        Raises InputError if there is none.
        """
        found, _ = checkpoint.newest(self.checkpoints)
        path = found or self.folder / EARLIER
        if not path.is_file():
            raise InputError(f"expected a checkpoint in {self.checkpoints}, found none yet")
        return path

    @property
    def not_finite(self) -> Path:
        """The folder of batches whose loss or gradients were not finite."""
        return self.folder / "not-finite"

    @property
    def unreadable(self) -> Path:
        """The list of images that could not be read."""
        return self.folder / "unreadable.txt"

    @property
    def table(self) -> Path:
        """The metrics of each epoch."""
        return self.folder / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The metrics as a picture."""
        return self.folder / "curves.png"

    @property
    def predictions(self) -> Path:
        """Test images, and what the model makes of them."""
        return self.folder / "predictions.png"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.folder / "report.html"

    @property
    def events(self) -> Path:
        """The folder of what TensorBoard shows."""
        return self.folder / "tensorboard"


def create(config: TrainConfig, architecture: BiFormerConfig, summary: data.Summary) -> Run:
    """Begin a run: a new folder, with the files that say what it is.

    Raises InputError if the folder exists, so that no run is overwritten, or cannot be created; or
    as :func:`settled`.
    """
    config = settled(config, architecture)
    folder = config.out or _next_free(Path(config.data).name or "root")
    run = Run(folder, replace(config, out=folder), architecture, summary)
    try:
        folder.mkdir(parents=True)
        _begin(run)
    except OSError as error:
        raise InputError(f"cannot create the folder of the run {folder}: {error}") from error
    return run


def settled(config: TrainConfig, architecture: BiFormerConfig) -> TrainConfig:
    """A config as a run has it: nothing is left to be decided, but for its folder.

    Raises InputError if recipe and label maps do not fit each other.
    """
    _check_label_maps(config)
    if data.is_folder(config.data):
        config = replace(config, data=str(Path(config.data).resolve()))
    if config.data_dir is not None:
        config = replace(config, data_dir=config.data_dir.resolve())
    if config.label_maps is not None:
        config = replace(config, label_maps=config.label_maps.resolve())
    recipe = config.recipe or recipe_of(config.data)
    return replace(config, recipe=recipe, drop_path=architecture.drop_path)


def write_config(run: Run) -> None:
    """Write the settings of a run. Raises OSError if that cannot be."""
    _write(run.folder / CONFIG, run.saved())


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n")


def _check_label_maps(config: TrainConfig) -> None:
    if config.recipe == "token-labels" and config.label_maps is None:
        raise InputError(
            "expected --label-maps FILE for the recipe token-labels; bilevel label-maps makes it"
        )
    if config.label_maps is not None and config.task != "classify":
        raise InputError(f"expected no label maps, which are of classes, to {config.task}")
    if config.label_maps is not None and config.mixes:
        raise InputError(
            "expected no mixup or cutmix with label maps, got "
            f"mixup {config.mixup} and cutmix {config.cutmix}; give --recipe token-labels, or "
            "--mixup 0 --cutmix 0"
        )


def _begin(run: Run) -> None:
    """Write the files that say what a run is, all or none."""
    try:
        write_config(run)
        _write(run.folder / DATA, run.data._asdict())
    except OSError:
        rmtree(run.folder, ignore_errors=True)
        raise


def reopen(folder: Path, device: str | None = None) -> Run:
    """The run in a folder; ``device`` is where it goes on, None where it was trained.

    Raises InputError if it is not the folder of a run, or if its files do not fit each other.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text())
        architecture = BiFormerConfig.from_dict(settings.pop(ARCHITECTURE, None))
        settings.pop(DEVIATIONS, None)  # for people: they follow from the rest
        config = replace(TrainConfig(**settings), out=folder)
    except OSError as error:
        raise InputError(f"expected the folder of a run, but cannot read {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected the config of a run in {path}: {error}") from error
    summary = _summary(folder / DATA)
    of_data, of_model = (
        (len(summary.classes), summary.in_chans),
        (architecture.num_classes, architecture.in_chans),
    )
    if of_data != of_model:
        raise InputError(
            f"expected as many classes and channels in {folder / DATA} as the model of {path} has, "
            f"{of_model}, got {of_data}"
        )
    return Run(folder, replace(config, device=device or config.device), architecture, summary)


def find_data(run: Run) -> data.Data:
    """The data of a run.

    Raises InputError if they are not what they were when it began: labels and the images that are
    held out would be others.
    """
    found = data.find(run.config)
    if found.summary() != run.data:
        raise InputError(
            f"expected the data of the run {run.folder}, {run.data._asdict()}, in "
            f"{run.config.data}, got {found.summary()._asdict()}"
        )
    return found


def check_settings(run: Run, position: checkpoint.Position) -> list[str]:
    """What changed in the settings since a checkpoint, and what comes of it, in words.

    Raises InputError if it is something that must not change, or if there are fewer epochs than
    are done.
    """
    now, then = run.lasting(), dict(position.settings)
    epochs, before = now.pop("epochs"), then.pop("epochs", None)
    changed = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    if changed:
        said = ", ".join(f"{n} was {then.get(n)!r} and is {now.get(n)!r}" for n in changed)
        raise InputError(
            f"expected the settings that the run began with in {run.folder / CONFIG}, but {said}; "
            "set them back, or begin a new run"
        )
    if epochs < position.epoch:
        raise InputError(
            f"expected epochs of at least {position.epoch} in {run.folder / CONFIG}, as many as "
            f"are done, got {epochs}"
        )
    if epochs == before:
        return []
    return [f"epochs was {before} and is {epochs}: the learning rate goes on as in {epochs} epochs"]


def build_model(config: TrainConfig, architecture: BiFormerConfig) -> nn.Module:
    """The model of a run with new weights, on its device.

    Raises InputError if torch has no such device.
    """
    model = task_of(config).model(architecture)
    try:
        return model.to(config.device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot put the model on device {config.device!r}: {reason}") from error


def load(folder: Path, device: str | None = None) -> tuple[Run, nn.Module]:
    """A run and its trained model, in evaluation mode; ``device`` is where the model goes, None
    where it was trained.

    Raises InputError if it is not the folder of a run, or has no checkpoint yet, and WeightsError
    if the checkpoint is of another model.
    """
    run = reopen(folder, device)
    model = build_model(run.config, run.architecture)
    path = run.checkpoint()
    checkpoint.load_model(model, checkpoint.read(path, run.config.device).tensors, path)
    return run, model.eval()


def _summary(path: Path) -> data.Summary:
    try:
        values = json.loads(path.read_text())
        return data.Summary(**{name: values[name] for name in data.Summary._fields})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"expected the data of a run in {path}: {error!r}") from error


def _next_free(name: str) -> Path:
    """The first of ``runs/name-1``, ``runs/name-2`` and so on that is not there yet."""
    return next(path for i in count(1) if not (path := Path("runs", f"{name}-{i}")).exists())
