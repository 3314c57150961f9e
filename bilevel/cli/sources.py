"""What commands on finished models take: a run, a repository, a checkpoint, or the model that comes
with bilevel; and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import InputError

if TYPE_CHECKING:
    from bilevel.models.conversion import Checkpoint
    from bilevel.models.model import BiFormer
    from bilevel.timm import About
    from bilevel.train.run import Run

HUB = "hf-hub:"
SAMPLE = "digits"
"""The small model that comes with bilevel; `./digits` is a folder."""


@dataclass(frozen=True)
class Source:
    """A model in evaluation mode, and what the place that it came from says of it."""

    model: BiFormer
    labels: Sequence[str] = ()
    about: About | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def read(source: str) -> Source:
    """The model in the folder of a run, in a repository (a folder, or ``hf-hub:OWNER/NAME``), in a
    checkpoint file with official names or ours, or for ``digits`` the one that comes with bilevel.

    Raises InputError if it is none of them, WeightsError if the parameters are of another model.
    """
    if source == SAMPLE:
        from bilevel.visual import sample

        found = sample.load()
        return Source(found.model, found.labels, preprocessing=found.preprocessing)
    if source.startswith(HUB):
        return _repository(source)
    path = Path(source)
    if not path.is_dir():
        return _checkpoint(path)
    from bilevel.train.folders import is_run

    return _run(path) if is_run(path) else _repository(f"local-dir:{path}")


def _run(folder: Path) -> Source:
    from bilevel.models.model import BiFormer
    from bilevel.train.run import load

    run, model = load(folder, "cpu")
    if not isinstance(model, BiFormer):
        raise InputError(f"expected a run that trained a BiFormer alone, got {folder}")
    return Source(model, run.data.classes, _about(run), _preprocessing(run))


def _about(run: Run) -> About:
    from bilevel.timm import About
    from bilevel.train import checkpoint, table

    epochs = checkpoint.read_position(run.checkpoint()).epoch
    last = table.read(run.table, epochs)[-1] if epochs else {}
    data = run.data
    return About(
        data=f"{Path(run.config.data).name}: {data.train_images} images to train on and "
        f"{data.test_images} to test on, of {len(data.classes)} classes.",
        recipe={name: x for name, x in run.settings().items() if name not in _UNTOLD},
        numbers={f"test {name}": x for name, x in table.measured(last, "test").items()},
    )


_UNTOLD = ("data", "data_dir", "dataset_download", "out", "device", "workers", "architecture")
"""Settings that are of a machine, or in the config of the repository."""


def _preprocessing(run: Run) -> dict[str, Any]:
    from bilevel.train.data import GREY, NAMES

    size, channels = run.config.image_size, run.architecture.in_chans
    known: dict[str, Any] = {"input_size": (channels, size, size)}
    if run.config.data in NAMES:
        known |= {"interpolation": "bilinear", "crop_pct": 1.0}
    return known | (GREY._asdict() if channels == 1 else {})


def _repository(name: str) -> Source:
    import timm

    from bilevel.models.model import BiFormer

    try:
        model = timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # of whichever library found that it is none
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"expected a run, or a model for timm, at {name}: {reason}") from error
    if not isinstance(model, BiFormer):
        raise InputError(f"expected a BiFormer at {name}, got a {type(model).__name__}")
    known: Any = model.pretrained_cfg
    what = {name: known[name] for name in _PREPROCESSING if known.get(name)}
    return Source(model, known.get("label_names") or (), preprocessing=what)


_PREPROCESSING = ("input_size", "interpolation", "mean", "std")


def _checkpoint(path: Path) -> Source:
    from bilevel.models.conversion import read

    return Source(model_of(read(path)))


def model_of(found: Checkpoint) -> BiFormer:
    """The model of a checkpoint. Raises WeightsError if it has no last norm."""
    from bilevel.models.config import BackboneConfig
    from bilevel.models.model import BiFormer
    from bilevel.models.tree import check_parameters, parameter_shapes

    config = found.config
    if isinstance(config, BackboneConfig):
        config = config.classifier()
    check_parameters(parameter_shapes(config), found.params, f"the whole {config}")
    model = BiFormer(config)
    model.load_state_dict(found.params)
    return model.eval()
