"""Being asked to end: a run saves itself, and says how it goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""What systems send before they take a machine away: SIGTERM, and what Slurm is told to send."""


@contextmanager
def asked() -> Iterator[Callable[[], int]]:
    """Within, these signals end nothing: the function says which came, 0 if none did.

    In a thread other than the main one, which no signal reaches, it never says so.
    """
    came = [0]

    def note(number: int, _: FrameType | None) -> None:
        came[0] = number

    here = SIGNALS if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, note) for number in here}
    try:
        yield lambda: came[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
