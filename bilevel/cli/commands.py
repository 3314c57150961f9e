"""The table of all commands, and how arguments become one of them.

A command is a frozen dataclass: its fields are its arguments, calling it does the work.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr

from tyro.extras import subcommand_cli_from_dict

from bilevel.cli.backends import Backends
from bilevel.cli.bench import Bench
from bilevel.cli.evaluate import Evaluate
from bilevel.cli.predict import Predict
from bilevel.cli.resume import Resume
from bilevel.cli.train import Train, TrainDigits
from bilevel.errors import InputError
from bilevel.train.config import DIGITS

COMMANDS: dict[str, Callable[..., Callable[[], None]]] = {
    "train": Train,
    "resume": Resume,
    "eval": Evaluate,
    "predict": Predict,
    "backends": Backends,
    "bench": Bench,
}
"""All commands by name. A new one is a file beside this one, and a line here."""


def parse(args: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments name, ready to be called.

    Raises InputError if they name none, or do not fit it.
    """
    commands = dict(COMMANDS)
    if list(args[1:2]) == [DIGITS.data]:
        # The defaults depend on the data, named first: minutes on a CPU, or a whole recipe.
        commands["train"] = TrainDigits
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command: Callable[[], None] = subcommand_cli_from_dict(
                commands, prog="bilevel", args=args, description="Bi-Level Routing Attention."
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(_one_line(said.getvalue())) from None
    return command


def _one_line(box: str) -> str:
    """The message in the box that tyro draws around an error, and the choices that it lists.

    The box is of lines, or of dashes and spaces where the output's encoding has no lines.
    """
    paragraphs = [""]
    for row in box.splitlines()[1:]:
        text = row.strip("│╭╮╰╯├┤ ")
        if text.strip("─-"):
            paragraphs[-1] += f" {text}"
        else:
            paragraphs.append("")
    said = [re.sub(r"\s+", " ", each).strip() for each in paragraphs if each]
    choices = [each for each in said[1:] if each.startswith("Available subcommands: ")]
    line = ". ".join([*said[:1], *choices])
    return re.sub(r"^Error parsing __\S*: ", "", line)  # a name of tyro's for the whole command
