"""``bilevel backends``"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from shutil import get_terminal_size

from bilevel.registry import BackendStatus, backends


@dataclass(frozen=True)
class Backends:
    """Which backends are installed, whether they are ready here, and how to install them."""

    def __call__(self) -> None:
        width = get_terminal_size().columns  # 80 where there is no terminal
        for row in backends():
            print("\n".join(_lines(row, max(width, 40))))


def _lines(row: BackendStatus, width: int) -> list[str]:
    """What is said of a backend. A command to copy stays whole, whatever the width."""
    from bilevel.doctor import why_not_ready  # imports NumPy

    why_not = row.why_not or why_not_ready(row.name)
    ready = f"no, {why_not}" if why_not else "yes"
    version = "-" if row.version is None else row.version
    return [
        f"{row.name} {version}",
        *textwrap.wrap(
            f"ready: {ready}",
            width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        ),
        *([f"  install: {row.install}"] if row.install else []),
    ]
