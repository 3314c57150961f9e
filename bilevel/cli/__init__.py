"""The command line: ``bilevel COMMAND``. One file per command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bilevel.errors import BilevelError


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. What the user can mend is one line and exit code 2, never a traceback."""
    args = sys.argv[1:] if args is None else list(args)
    # Threads that wait give up their core early: else, where another program keeps a core busy,
    # they wait for each other by turns, and training is many times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        try:
            from bilevel.cli.commands import parse

            parse(args)()
        except ModuleNotFoundError as error:
            raise BilevelError(
                f"the command line needs {error.name}; install it with: "
                'python -m pip install "bilevel[train]"'
            ) from error
    except BilevelError as error:
        print(f"bilevel: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("bilevel: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
