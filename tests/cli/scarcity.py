"""Commands in a forked process that has less of something than it needs."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from bilevel.cli import main

PATIENCE = 120
"""Seconds after which a command is said to hang."""


class Ended(NamedTuple):
    code: int | str
    """The exit code, or what a shell would say of the signal that ended it."""
    stderr: str


def file_sizes_up_to(size: int) -> None:
    """To the process, the disk is full where a file would be larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def memory_for(more: int) -> None:
    """So many bytes more than the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def descriptors_up_to(number: int) -> None:
    """Of open files, pipes and sockets."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def ended(args: Sequence[str], stdout: Path, limit: Callable[[], None]) -> Ended:
    """How a command ends under a limit, with its output in a file."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, which wait for work here
        process = os.fork()
    if not process:
        os.close(reader)
        _run(args, stdout, writer, limit)
    os.close(writer)
    with open(reader, "rb", buffering=0) as errors:
        said, over = b"", time.monotonic() + PATIENCE
        while (left := over - time.monotonic()) > 0 and select.select([errors], [], [], left)[0]:
            new = errors.read(4096)
            if not new:
                break
            said += new
        else:
            os.killpg(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(code if code >= 0 else signal.Signals(-code).name, said.decode())


def _run(args: Sequence[str], stdout: Path, writer: int, limit: Callable[[], None]) -> NoReturn:
    """In the forked process: the command, as the shell would start it."""
    code = 99
    try:
        os.setpgrp()
        _forget_pytest()
        torch.set_num_threads(1)  # those of the parent are not here
        os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(writer, 2)
        os.close(writer)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        limit()
        main(args)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    finally:
        sys.stderr.flush()
        os._exit(code)


def _forget_pytest() -> None:
    """Warnings, and errors that nobody catches, are shown as Python does."""
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    sys.unraisablehook = sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
