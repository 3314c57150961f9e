"""What was wrong in annotations and could be repaired: counted, so that a line can say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class Repairs:
    """Counts what was repaired, by what was done, and keeps the first entry of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, entry: str) -> None:
        """One more entry that something was done to: ``add("boxes clipped", "annotation 3")``."""
        self._counts[what] += 1
        self._first.setdefault(what, entry)

    def notes(self) -> Sequence[str]:
        """A line for each kind, for people to read."""
        return [
            f"{count} {what}; the first: {self._first[what]}"
            for what, count in self._counts.items()
        ]
