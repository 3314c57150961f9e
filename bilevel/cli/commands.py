"""The table of all commands, and how arguments become one of them.

A command is a frozen dataclass: its fields are its arguments, calling it does the work.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeAlias

from tyro.extras import subcommand_cli_from_dict

from bilevel.cli.backends import Backends
from bilevel.cli.bench import Bench
from bilevel.cli.compare import Compare
from bilevel.cli.convert import Convert
from bilevel.cli.doctor import Doctor
from bilevel.cli.evaluate import Evaluate
from bilevel.cli.export import Export
from bilevel.cli.label_maps import LabelMaps
from bilevel.cli.mistakes import one_line, suggestion
from bilevel.cli.order import command_first, values_together
from bilevel.cli.predict import Predict
from bilevel.cli.push import Push
from bilevel.cli.resume import Resume
from bilevel.cli.train import Train, with_defaults
from bilevel.cli.visualize import Visualize
from bilevel.errors import InputError

if TYPE_CHECKING:
    from bilevel.train.config import TrainConfig

Command: TypeAlias = Callable[[], None]

COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "resume": Resume,
    "eval": Evaluate,
    "predict": Predict,
    "visualize": Visualize,
    "label-maps": LabelMaps,
    "export": Export,
    "convert": Convert,
    "push": Push,
    "backends": Backends,
    "doctor": Doctor,
    "bench": Bench,
    "compare": Compare,
}
"""All commands by name. A new one is a file beside this one, and a line here."""

HELP = ("-h", "--help")


def parse(args: Sequence[str]) -> Command:
    """The command that the arguments name, ready to be called; without any, the help is shown.

    Raises InputError if they name none, or do not fit it.
    """
    args = command_first(list(args), COMMANDS) or ["--help"]
    if args[0] in COMMANDS:
        args = [args[0], *values_together(args[1:], COMMANDS[args[0]])]
    wants_help = any(arg in HELP for arg in args)
    bare = [arg for arg in args if arg not in HELP]
    try:
        command = _parsed(bare, COMMANDS)
    except InputError:
        if not wants_help:
            raise
        return _parsed(args, COMMANDS)
    if isinstance(command, Train):
        return _by_recipe(args, bare, command.config)
    return _parsed(args, COMMANDS) if wants_help else command


def _by_recipe(args: list[str], bare: list[str], said: TrainConfig) -> Command:
    """A training run whose defaults are those of a recipe. Which, is asked once all is parsed, and
    then once more what depends on the model and the batch: the order of options makes no
    difference."""
    from bilevel.train import recipes

    of_recipe = recipes.config(said.recipe or recipes.recipe_of(said.data), said.data)
    command: Any = _parsed(bare, {**COMMANDS, "train": with_defaults(of_recipe)})
    scaled = recipes.resolved(command.config)
    command = _parsed(args, {**COMMANDS, "train": with_defaults(scaled)})
    return Train(**vars(command))


def _parsed(args: list[str], commands: Mapping[str, Callable[..., Command]]) -> Command:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command: Command = subcommand_cli_from_dict(
                dict(commands), prog="bilevel", args=args, description=DESCRIPTION
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        message = one_line(said.getvalue()).rstrip(".")
        raise InputError(message + suggestion(args, list(COMMANDS), _help, message)) from None
    return command


DESCRIPTION = (
    "Bi-Level Routing Attention. --version prints the version; with --debug, an error shows its "
    "traceback."
)


def _help(args: list[str]) -> str:
    """The help of a command."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(io.StringIO()):
            subcommand_cli_from_dict(COMMANDS, prog="bilevel", args=[*args, "--help"])
    except SystemExit:
        pass
    return said.getvalue()
