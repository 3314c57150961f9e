"""The table of the comparison, as a file that grows: what it has is not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel.bench import provenance, results
from bilevel.bench.attentions.rows import SUBJECTS
from bilevel.bench.results import Row
from bilevel.errors import InputError

SAME = {"speed": ("machine", "threads", "torch")}
"""Conditions of a part that may not change while it grows; elsewhere its settings say all."""


class Table:
    """Rows by name in a JSON file, each with a group of numbers for each part, and the conditions
    under which each part was measured.

    Raises InputError if the file is none of these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, Any] = {}
        self.rows: dict[str, Row] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            self.parts = found["parts"]
            self.rows = {row["name"]: row for row in found["rows"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"expected a file of `bilevel compare` at {path}, but cannot read it: {error!r}"
            ) from error

    def begin(self, part: str, settings: Mapping[str, Any]) -> None:
        """Say how a part is measured from here on.

        Raises InputError if the file has rows of it that were measured in another way.
        """
        command = f"bilevel compare --parts {part}"
        now = {"command": command, "settings": dict(settings), **provenance.conditions("cpu")}
        if not any(part in row for row in self.rows.values()):
            self.parts[part] = now
        then = self.parts.setdefault(part, now)
        for name in ("settings", *SAME.get(part, ())):
            if now[name] != then[name]:
                raise InputError(
                    f"expected {name} {then[name]!r}, under which {self.path} has {part} already, "
                    f"got {now[name]!r}; give another folder as --out"
                )

    def put(self, name: str, part: str, measured: Row) -> None:
        """Add what was measured of a row, or of one more seed of it, and write the file."""
        subject = SUBJECTS[name]
        row = self.rows.setdefault(
            name, {"name": name, "group": subject.group, "source": subject.source}
        )
        row[part] = {**row.get(part, {}), **measured}
        in_order: Sequence[Row] = [self.rows[each] for each in SUBJECTS if each in self.rows]
        results.save(self.path, {"parts": self.parts}, in_order)
