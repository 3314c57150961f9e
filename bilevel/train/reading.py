"""Images that cannot be read, over all processes: named once, listed in a file, and too many of
them the end of a run."""

from __future__ import annotations

from rich.console import Console

from bilevel.files import replacing
from bilevel.train.distributed import World
from bilevel.train.loader import Planned, Unreadable
from bilevel.train.run import Run


class Reading:
    """What was met so far."""

    def __init__(self, run: Run, world: World, planned: Planned, console: Console) -> None:
        self._run, self._world, self._planned, self._console = run, world, planned, console
        self._known = Unreadable()

    def news(self) -> bool:
        """Whether this process met an image that is not known yet."""
        return not self._planned.unreadable.keys() <= self._known.keys()

    def look(self) -> None:
        """Tell all processes, say and write what is new.

        Raises InputError if too many images cannot be read.
        """
        images = self._planned.plan.images
        before = set(self._known)
        for met in self._world.gathered(dict(self._planned.unreadable)):
            self._known.update(met)
        for index in sorted(set(self._known) - before):
            self._console.print(f"another image in its place: {self._known[index]}")
        self._world.by_first(self._write)
        if self._known.are_too_many(images):
            self._world.fail(f"{self._known.in_words(images)}; all in {self._run.unreadable}")

    def _write(self) -> None:
        with replacing(self._run.unreadable) as partial:
            lines = (f"{self._known[index]}\n" for index in sorted(self._known))
            partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
