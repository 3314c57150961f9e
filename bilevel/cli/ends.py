"""How a command ends: what went wrong is one line and an exit code, never a bare traceback."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from bilevel.errors import AnotherProcess, BilevelError, Stopped

FAULT, FAILED, INTERRUPTED = 1, 2, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|could not create a primitive",
    re.IGNORECASE,
)
_THREADS = "can't start new thread"
_WORKER = "DataLoader worker"
_SHARED = re.compile(r"shared memory|/torch_\d|\bshm\b", re.IGNORECASE)
_FULL = re.compile(
    "|".join([*map(os.strerror, FULL), *(rf"os error {number}\b" for number in FULL)])
)


class Fault(Exception):
    """A command did its work and has said what it found, which is bad: exit code 1."""


def run(command: Callable[[], None], debug: bool) -> None:
    """Run a command; SystemExit with a code that is not 0, and a line, if it fails."""
    for name in ("stdout", "stderr"):
        _prepare(name)
    try:
        try:
            command()
        finally:
            sys.stdout.flush()  # what was printed may find its file full, or its reader gone
    except Fault:
        raise SystemExit(FAULT) from None
    except SystemExit as end:
        if not end.code:
            raise
        _end(end, debug, f"ended with {end.code}", FAILED)
    except Stopped as error:
        _end(error, debug, reason(error), 128 + error.signal)
    except KeyboardInterrupt as error:
        _end(error, debug, "interrupted", INTERRUPTED)
    except BaseException as error:
        _end(error, debug, reason(error), FAILED)


def reason(error: BaseException) -> str:
    """What went wrong and what to do, in one line."""
    if isinstance(error, BilevelError):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the command line needs {error.name}; install it with: "
            'python -m pip install "bilevel[train]"'
        )
    for each in _causes(error):
        known = _known(each)
        if known:
            return known
    name = type(error).__name__
    return f"unexpected {name}: {_text(error)}; --debug shows where it comes from"


def _known(error: BaseException) -> str | None:
    """The line for what a machine may lack, None for other errors."""
    text = _text(error)
    if _SHARED.search(text):
        return (
            f"no shared memory for the processes that read images ({text}); "
            "give --workers 0, or enlarge /dev/shm"
        )
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return f"out of memory ({text}); make the batches, the images or the model smaller"
    if getattr(error, "errno", None) in FULL or _FULL.search(text):
        return f"cannot write, the disk or a limit is full ({text}); make room, or write elsewhere"
    if _THREADS in text:
        return f"no memory for more threads, or too many of them ({text}); end other programs"
    if _WORKER in text:  # torch's handler of a signal raises it, wherever the main process is
        return f"a process that reads images ended early ({text}); use fewer, or --workers 0"
    if isinstance(error, BrokenPipeError):
        return "the reader of the output is gone"
    if isinstance(error, OSError):
        return f"the system refuses: {text}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    """The line of a message that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A process that reads images sends its whole traceback, and its error last.
    return " ".join(lines[-1 if lines[0].startswith("Caught ") else 0].split())


def _end(error: BaseException, debug: bool, said: str, code: int) -> None:
    _let_go(error)
    try:
        if debug:
            traceback.print_exception(error)
        said_elsewhere = isinstance(error, Stopped) and _rank()  # by the first process
        if not (said_elsewhere or isinstance(error, AnotherProcess)):
            print(f"bilevel: {_rank()}{said}", file=sys.stderr, flush=True)
    except OSError:  # nobody is there to read it
        _discard(sys.stderr)
    _discard(sys.stdout)
    raise SystemExit(code) from None


def _rank() -> str:
    """Which process speaks, if it is not the first of several that torchrun started."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def _let_go(error: BaseException) -> None:
    """Take apart, in silence, what the functions that failed had in hand: Python would print the
    complaints of what they had built by half."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        for each in _causes(error):
            traceback.clear_frames(each.__traceback__)
    finally:
        sys.unraisablehook = hook


def _prepare(name: str) -> None:
    """Let a stream print any text, in escapes what its encoding does not have; a stream that the
    caller closed takes all and shows nothing."""
    stream: Any = getattr(sys, name)
    if stream is None:
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 # open to the end of the process
    elif hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Drop what a stream still holds if it cannot be written: Python would try again at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        try:
            number = stream.fileno()
        except (io.UnsupportedOperation, ValueError):
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
