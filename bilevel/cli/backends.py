"""``bilevel backends``"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Column, Table

from bilevel.cli.console import CONSOLE
from bilevel.errors import BackendUnavailable
from bilevel.registry import backends, load


@dataclass(frozen=True)
class Backends:
    """Which backends are installed, whether they are ready here, and how to install them."""

    def __call__(self) -> None:
        table = Table("backend", "version", "ready", Column("install", no_wrap=True))
        for row in backends():
            why_not = row.why_not or _why_not(row.name)
            table.add_row(row.name, row.version or "-", why_not or "yes", row.install)
        CONSOLE.print(table)


def _why_not(name: str) -> str | None:
    """What stands against a backend that is installed, as that there is no GPU."""
    try:
        load(name)
    except BackendUnavailable as error:
        return str(error)
    return None
