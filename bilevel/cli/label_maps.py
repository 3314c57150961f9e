"""``bilevel label-maps``"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from bilevel.arguments import count
from bilevel.cli.console import CONSOLE
from bilevel.errors import InputError

if TYPE_CHECKING:
    from bilevel.train.token_labels.teacher import Teacher


@dataclass(frozen=True)
class LabelMaps:
    """Let a teacher say of each training image what is where in it, for training with token labels.
    What was ended early goes on where it was."""

    teacher: Positional[str]
    """A model of timm that has weights, by its name, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`; or
    the folder of a run. Its classes are those of the data."""
    data: Positional[str]
    """The images, as `bilevel train` takes them."""
    out: Positional[Path]
    """The file of the maps, `.npy`; a `.json` beside it says what they were made from."""
    image_size: int | None = None
    """Height and width of the images that the teacher sees, in pixels; by default those it was
    made for."""
    batch_size: int = 64
    """Images that it sees at a time."""
    device: str = "cpu"
    """Where to compute, as torch calls it: `cpu`, `cuda`."""
    workers: int = 2
    """Processes that read images."""

    def __post_init__(self) -> None:
        if self.image_size is not None:
            count("image_size", self.image_size)
        count("batch_size", self.batch_size)
        count("workers", self.workers, 0)

    def __call__(self) -> None:
        from bilevel.train.config import TrainConfig
        from bilevel.train.data import originals
        from bilevel.train.label_maps import make

        images = originals(TrainConfig(data=self.data))
        teacher = _teacher(self.teacher, self.image_size)
        with _bar(len(images.names)) as shown:
            made = make(
                teacher,
                self.teacher,
                images,
                self.out,
                self.batch_size,
                self.device,
                self.workers,
                shown,
            )
        total = made.made_from.images
        height, width = made.made_from.map_size
        earlier = f", {made.before} of them by an earlier call" if made.before else ""
        CONSOLE.print(f"{self.out}: {total} label maps of {height} x {width}{earlier}")
        if made.unreadable:
            CONSOLE.print(made.unreadable.in_words(total))


@contextmanager
def _bar(images: int) -> Iterator[Callable[[int], None]]:
    """A bar of the images that are done; it is gone at the end."""
    from rich.progress import Progress

    with Progress(console=CONSOLE, transient=True) as bar:
        line = bar.add_task("images", total=images)
        yield lambda done: bar.update(line, completed=done)


def _teacher(source: str, image_size: int | None) -> Teacher:
    """The model in the folder of a run, or one of timm.

    Raises InputError if it is neither, or no teacher.
    """
    from bilevel.timm.biformer import pretrained_cfg
    from bilevel.train.token_labels.teacher import of_model

    if Path(source).is_dir():
        from bilevel.cli.sources import read

        found = read(source)
        size = image_size or 224
        seen = pretrained_cfg(found.model.config, size) | dict(found.preprocessing)
        return of_model(found.model, seen, image_size)
    import timm

    try:
        model: Any = timm.create_model(source, pretrained=True)
    except Exception as error:  # of whichever library found that it is none
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"expected the folder of a run, or a model of timm with weights, got {source}: {reason}"
        ) from error
    seen = timm.data.resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return of_model(model, seen, image_size)
