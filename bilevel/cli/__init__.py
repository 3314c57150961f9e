"""The command line: ``bilevel COMMAND``. One file per command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bilevel import __version__
from bilevel.cli.ends import run

DEBUG = "--debug"


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. Whatever ends it is one line and exit code 2, or 130 for an interrupt; with
    ``--debug`` anywhere, the traceback too."""
    args = sys.argv[1:] if args is None else list(args)
    # Threads that wait give up their core early: else, where another program keeps a core busy,
    # they wait for each other by turns, and training is many times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    wanted = [_at_home(arg) for arg in args if arg != DEBUG]
    run(lambda: _command(wanted), DEBUG in args)


def _command(args: list[str]) -> None:
    if args == ["--version"]:
        print(f"bilevel {__version__}")
        return
    from bilevel.cli.commands import parse

    parse(args)()


def _at_home(arg: str) -> str:
    """An argument, or the value in ``--option=value``, with the home folder in place of a "~" in
    front, where the shell has not put it."""
    option, is_option, value = arg.partition("=") if arg.startswith("-") else ("", "", arg)
    return f"{option}{is_option}{os.path.expanduser(value)}"
