"""Arguments in the order in which the parser takes them, from any other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, get_args, get_origin, get_type_hints


def command_first(args: list[str], commands: Collection[str]) -> list[str]:
    """The arguments with the command in front, also if options were given before it."""
    if args and args[0].startswith("-"):
        for i, arg in enumerate(args):
            if arg in commands:
                return [arg, *args[:i], *args[i + 1 :]]
    return args


def values_together(args: list[str], command: Callable[..., Any]) -> list[str]:
    """The arguments of a command, with its options in front if it takes any number of values: the
    parser wants those in one piece."""
    hints = get_type_hints(command, include_extras=True)
    if not any(map(_takes_any_number, hints.values())):
        return args
    flags = {name for name, hint in hints.items() if hint is bool}
    options, values, rest = [], [], iter(args)
    for arg in rest:
        if arg == "--":  # from here on, nothing is an option
            values += [arg, *rest]
        elif not arg.startswith("-") or arg == "-":
            values.append(arg)
        else:
            options.append(arg)
            name = arg.lstrip("-").replace("-", "_").removeprefix("no_")
            if "=" not in arg and name not in flags:
                options += [value for value in [next(rest, None)] if value is not None]
    return [*options, *values]


def _takes_any_number(hint: Any) -> bool:
    """Whether it is one of values without a name, as ``Positional[tuple[Path, ...]]``."""
    of_values = get_args(hint)[0] if get_origin(hint) is Annotated else None
    return get_origin(of_values) is tuple and Ellipsis in get_args(of_values)
