"""What is wrong with arguments, in one line, and what may have been meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

ANYWHERE = ("--help", "--version", "--debug")
"""Options that stand outside the commands."""

_CHOICES = re.compile(r"invalid choice '(.*)' for argument .*?Expected one of \((.*?)\)")


def one_line(box: str) -> str:
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


def suggestion(
    args: Sequence[str], commands: Sequence[str], help_of: Callable[[list[str]], str], message: str
) -> str:
    """The end of an error's line: for a word that does not exist, the one that is nearest to it.

    ``help_of`` gives the help of a command by its words, and ``message`` is the line so far.
    """
    choices = _CHOICES.search(message)
    if choices is not None:
        return _nearest([choices[1]], re.findall(r"'(.*?)'", choices[2]))
    if args and args[0] not in commands:
        return _nearest(args[:1], [*commands, *ANYWHERE])
    subjects = re.search(r"(?:Available subcommands: |one of \{)([^}]*)", message)
    if subjects is not None:
        return _nearest(args[1:2], re.findall(r"\w+", subjects[1]))
    words = [arg for arg in args[:2] if not arg.startswith("-")]
    shown = help_of(words if args[0] == "bench" else words[:1])
    options = [*re.findall(r"--[a-z][a-z0-9-]*", shown), *ANYWHERE]
    written = [arg.partition("=")[0].replace("_", "-") for arg in args if _is_option(arg)]
    unknown = [name for name in written if name not in options]
    near = _nearest(unknown, options)
    return (
        f"; there is no option {unknown[0]}{near}" if unknown and "Unrec" not in message else near
    )


def _is_option(arg: str) -> bool:
    return re.match(r"--?[A-Za-z]", arg) is not None


def _nearest(words: Iterable[str], known: Sequence[str]) -> str:
    for word in words:
        found = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
        if found:
            return f"; did you mean {found[0]}?"
    return ""
