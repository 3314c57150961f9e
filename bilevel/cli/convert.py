"""``bilevel convert``"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tyro.conf import Positional

from bilevel.cli.sources import model_of
from bilevel.errors import InputError
from bilevel.models.config import MODELS

StyleName: TypeAlias = Literal["official", "mm", "bilevel", "timm"]
STYLES: Mapping[str, StyleName] = {
    ".pth": "official",
    ".pt": "official",
    ".safetensors": "bilevel",
    "": "timm",
}
"""What is written by default, by the suffix of the output."""
SAID = {"moved": "moved", "stayed": "stayed", "made": "made", "left": "left out"}
"""The first word of a key's line, and what is counted by it."""

if TYPE_CHECKING:
    ModelName: TypeAlias = str
    from bilevel.models.conversion import Checkpoint
else:  # from this the command line has its choices
    ModelName = Literal[tuple(MODELS)]


@dataclass(frozen=True)
class Convert:
    """Write the parameters of a checkpoint by other names, and say of each key whether it moved,
    stayed or was left out."""

    source: Positional[Path]
    """A checkpoint file: official, from a detector or segmenter (mm), or with bilevel's names, by
    `torch.save` or safetensors."""
    out: Positional[Path]
    """A file, safetensors by its suffix, else of `torch.save`; or a folder, for timm."""
    style: StyleName | None = None
    """Whose names to write: by default the official ones into `.pth` and `.pt`, bilevel's into
    `.safetensors`, and timm's repository into a folder."""
    model: ModelName | None = None
    """The model, where the parameters do not tell."""

    def __call__(self) -> None:
        from bilevel.models import conversion

        style = self.style or self._default_style()
        found = conversion.read(self.source, self.model)
        if style == "timm":
            self._save_repository(found)
        else:
            conversion.write(found, self.out, style)
        lines = conversion.told(found, "bilevel" if style == "timm" else style)
        print("\n".join(lines))
        counts = Counter(line.split()[0] for line in lines)  # "left out" counts as "left"
        print(f"{self.out}: " + ", ".join(f"{counts[word]} {say}" for word, say in SAID.items()))

    def _default_style(self) -> StyleName:
        if self.out.suffix not in STYLES:
            raise InputError(
                f"expected {self.out} to end in {', '.join(filter(None, STYLES))} or to have no "
                f"suffix, as a folder has, got {self.out.suffix}; or say --style"
            )
        return STYLES[self.out.suffix]

    def _save_repository(self, found: Checkpoint) -> None:
        from bilevel.timm import save

        save(model_of(found), self.out)
