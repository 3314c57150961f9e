"""``bilevel visualize``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from bilevel.errors import InputError
from bilevel.files import replacing

if TYPE_CHECKING:
    from bilevel.cli.sources import Source
    from bilevel.visual import AttentionMap
    from bilevel.visual.images import Prepared


@dataclass(frozen=True)
class Visualize:
    """Draw what a model attends to: the image in regions, the regions that one token's region is
    routed to, and the attention of that token over the whole image."""

    source: Positional[str]
    """Folder of a run, a repository (its folder, or `hf-hub:OWNER/NAME`), a checkpoint file, or
    `digits`: the small model that comes with bilevel."""
    image: Positional[Path | None] = None
    """An image file. `digits` needs none, and takes one of scikit-learn's digits."""
    at: str | None = None
    """The pixel of the image file whose token is looked at, as `120,80`: column and row, from the
    upper left corner. By default the middle."""
    stage: int | None = None
    """From 1, as the paper counts; by default the last one that routes."""
    block: int = -1
    """Of the stage: 0 is the first, -1 the last."""
    head: int | None = None
    """From 0; by default the mean over all heads."""
    size: int | None = None
    """Pixels of the image's shorter side, to which it is scaled; by default as in training."""
    out: Path | None = None
    """The picture, a format of Matplotlib by its suffix; by default `NAME-routes.png`, unless
    there is --html."""
    html: Path | None = None
    """A page for browsers, in one file, in which routes and attention follow the pointer."""

    def __call__(self) -> None:
        from bilevel.cli.sources import read

        at = None if self.at is None else _pixel(self.at)
        if self.out is not None:
            _check_format(self.out)
        found = read(self.source)
        name, prepared = self._prepared(found)
        if self.html is not None:
            self._write_page(found.model, prepared, at, self._title(name))
            print(self.html)
        if self.out is not None or self.html is None:
            self._draw(found, prepared, at, name)

    def _prepared(self, found: Source) -> tuple[str, Prepared]:
        """A name for the image, and the image for the model."""
        from bilevel.cli.sources import SAMPLE
        from bilevel.visual import images, sample

        if self.image is not None:
            picture = images.read(self.image)
        elif self.source == SAMPLE:
            picture = sample.digit()
        else:
            raise InputError(f"expected an image file after {self.source}")
        name = SAMPLE if self.image is None else self.image.stem
        channels = found.model.in_chans
        return name, images.prepare(picture, channels, found.preprocessing, self.size)

    def _title(self, name: str) -> str:
        return name if self.image is None else f"{name}, seen by {self.source}"

    def _write_page(self, model: Any, prepared: Prepared, at: Any, title: str) -> None:
        import torch

        from bilevel.visual import page

        image, place = torch.from_numpy(prepared.image), prepared.pixel(at)
        text = page(model, image, prepared.picture, title, place, self.stage, self.block)
        assert self.html is not None
        with replacing(self.html) as partial:
            partial.write_text(text, "utf-8")

    def _draw(self, found: Source, prepared: Prepared, at: Any, name: str) -> None:
        import torch

        from bilevel.visual import attention_map, draw
        from bilevel.visual.images import labelled

        image, place = torch.from_numpy(prepared.image), prepared.pixel(at)
        seen = attention_map(found.model, image, place, self.stage, self.block, self.head)
        with torch.inference_mode():
            logits = found.model(image)[0].double().numpy()
        says = f"{name}: {labelled(found.labels, logits)}" if found.model.num_classes else name
        out = self.out or Path(f"{name}-routes.png")
        with replacing(out) as partial:
            draw(prepared.picture, seen, says).savefig(partial, dpi=150)
        print(f"{out}: {says}; {_told(seen)}")


def _pixel(text: str) -> tuple[int, int]:
    """``120,80`` as two numbers. Raises InputError if it is anything else."""
    parts = text.replace("(", "").replace(")", "").split(",")
    try:
        x, y = map(int, parts)
    except ValueError:
        raise InputError(
            f"expected --at as two whole numbers with a comma, as 120,80, got {text}"
        ) from None
    return x, y


def _check_format(out: Path) -> None:
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if out.suffix.lower().lstrip(".") not in known:
        raise InputError(
            f"expected {out} to end in one of {', '.join(f'.{kind}' for kind in sorted(known))}"
        )


def _told(seen: AttentionMap) -> str:
    """The routes in words."""
    row, column = seen.query
    if seen.routes.full:
        return f"the token in row {row}, column {column} attends to all {seen.weights.size} tokens"
    regions = ", ".join(map(str, seen.routed))
    return f"region {seen.region}, of the token in row {row}, column {column}, routes to {regions}"
