"""``bilevel push``"""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class Push:
    """Send a model to the Hugging Face Hub, with a card of what is known of it, so that timm and
    transformers load it by its name."""

    source: Positional[str]
    """Folder of a run, a repository's folder, or a checkpoint file."""
    repo: Positional[str]
    """Name of the repository, `OWNER/NAME`; it is made if it is not there."""
    private: bool = False
    """Whether a new repository is private."""

    def __call__(self) -> None:
        from bilevel.cli.sources import read
        from bilevel.timm import push

        found = read(self.source)
        rest = (found.labels, found.about, found.preprocessing, self.private)
        print(push(found.model, self.repo, *rest))
