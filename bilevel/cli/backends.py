"""``bilevel backends``"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Column, Table

from bilevel.cli.console import CONSOLE
from bilevel.registry import backends


@dataclass(frozen=True)
class Backends:
    """Which backends are installed, whether they are ready, and how to install them."""

    def __call__(self) -> None:
        table = Table("backend", "version", "ready", Column("install", no_wrap=True))
        for row in backends():
            table.add_row(row.name, row.version or "-", row.why_not or "yes", row.install)
        CONSOLE.print(table)
