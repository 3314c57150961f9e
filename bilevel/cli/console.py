"""The console that all commands print to: plain text, a line stays a line."""

import os
from collections.abc import Mapping
from errno import EPIPE

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """An error, as for all that is printed. Rich's own way is to end the process."""
        raise BrokenPipeError(EPIPE, "the reader of the output is gone")


CONSOLE = _Console(soft_wrap=True, markup=False, highlight=False)


def print_score(test: Mapping[str, float]) -> None:
    """Print what a model is judged by, the last of the numbers that were measured in testing; of
    several processes, the first does."""
    if os.environ.get("RANK", "0") != "0":
        return
    *_, (name, value) = test.items()
    print(f"test {name} {value:.4f}")
