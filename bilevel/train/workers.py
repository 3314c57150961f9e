"""Processes that read images: however one of them fails, training ends with an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.queues import Queue
from typing import Any

from bilevel.errors import InputError

REMEDY = "use fewer of them, or --workers 0, or enlarge /dev/shm"


def end_at_errors(worker: int) -> None:
    """In a new worker: end it where an error would be printed and forgotten.

    Batches are handed over by threads of the worker, which shared memory, descriptors or memory may
    not suffice for. Theirs are errors that nobody hears of, and the main process would wait forever
    for what is lost; that a worker has ended, it notices.
    """
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    sys.excepthook = _end


def _end(*_: Any) -> None:
    os._exit(1)


def each(loader: Iterable[Any]) -> Iterator[Any]:
    """What a loader gives.

    Raises InputError if its workers cannot start, or if one of them fails or ends.
    """
    try:
        batches = iter(loader)
    except OSError as error:  # of their locks, which are in shared memory, or of the processes
        raise InputError(
            f"cannot start the processes that read images: {error}; {REMEDY}"
        ) from error
    try:
        yield from batches
    except InputError as error:
        # From a worker process the message comes wrapped in a traceback; its last line is ours.
        raise InputError(str(error).strip().splitlines()[-1].split("InputError: ")[-1]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        # Most often there is no shared memory left, in which they hand over what they read.
        raise InputError(
            f"a process that reads images ended early; {REMEDY}: "
            f"{str(error).strip().splitlines()[-1]}"
        ) from None
