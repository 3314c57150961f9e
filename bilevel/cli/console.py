"""The console that all commands print to: plain text, a line stays a line."""

from rich.console import Console

CONSOLE = Console(soft_wrap=True, markup=False, highlight=False)
