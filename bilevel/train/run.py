"""The folder of a run: what is in it, how it is begun and read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from torch import nn

from bilevel.errors import InputError
from bilevel.models import BiFormerConfig
from bilevel.train import checkpoint, data
from bilevel.train.config import DIGITS, TrainConfig
from bilevel.train.tasks import task_of

CONFIG, DATA = "config.json", "data.json"
ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class Run:
    """A folder, and what was settled when its run began."""

    folder: Path
    config: TrainConfig
    architecture: BiFormerConfig
    """The whole model: a name may mean another one in a later version."""
    data: data.Summary

    @property
    def checkpoint(self) -> Path:
        """Weights, and the state of the optimizer, after the last epoch done."""
        return self.folder / "checkpoint.safetensors"

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


def create(config: TrainConfig, architecture: BiFormerConfig, summary: data.Summary) -> Run:
    """Begin a run: a new folder, with the files that say what it is.

    Raises InputError if the folder exists, so that no run is overwritten, or cannot be created.
    """
    wanted = config.out or _next_free(Path(config.data).name)
    if config.data != DIGITS.data:
        config = replace(config, data=str(Path(config.data).resolve()))
    folder = _new_folder(wanted)
    run = Run(folder, replace(config, out=folder), architecture, summary)
    settings = asdict(run.config) | {"out": str(folder), ARCHITECTURE: architecture.to_dict()}
    for name, values in ((CONFIG, settings), (DATA, summary._asdict())):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    return run


def reopen(folder: Path, device: str | None = None) -> Run:
    """The run in a folder; ``device`` is where it goes on, None where it was trained.

    Raises InputError if it is not the folder of a run, or if its files do not fit each other.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text())
        architecture = BiFormerConfig.from_dict(settings.pop(ARCHITECTURE, None))
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


def build_model(config: TrainConfig, architecture: BiFormerConfig) -> nn.Module:
    """The model of a run with new weights, on its device.

    Raises InputError if torch has no such device.
    """
    try:
        return task_of(config).model(architecture).to(config.device)
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
    tensors, _ = checkpoint.read(run.checkpoint, run.config.device)
    checkpoint.load_model(model, tensors, run.checkpoint)
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


def _new_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot create the folder of the run {path}: {error}") from error
    return path
