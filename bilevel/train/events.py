"""What is measured in a run, as TensorBoard shows it while it trains."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilevel.train.progress import Pace
from bilevel.train.table import PARTS, Row, measured


class Events:
    """Writes numbers by step; what ``folder`` holds of later steps is no longer shown."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        writer: Any = SummaryWriter
        self._writer = writer(str(folder), purge_step=step + 1)

    def steps(self, step: int, train: Mapping[str, float], lr: float, pace: Pace) -> None:
        """The means of an epoch so far, the learning rate, and the pace."""
        values = {f"{name}/steps": value for name, value in train.items()}
        values |= {"lr": lr, "img_per_s": pace.images, "loading": pace.loading}
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def epoch(self, step: int, row: Row) -> None:
        """What the row of an epoch says, after its last step."""
        for part in PARTS:
            for name, value in measured(row, part).items():
                self._writer.add_scalar(f"{name}/{part}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


@contextmanager
def events(folder: Path, step: int, writes: bool = True) -> Iterator[Events | None]:
    """Events from a step on; None where another process writes them."""
    if not writes:
        yield None
        return
    with _told_once():
        found = Events(folder, step)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def _told_once() -> Iterator[None]:
    """TensorBoard writes in a thread, and raises what that meets at its next call: within, it is
    not printed besides."""
    shown = threading.excepthook

    def show(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            shown(args)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = shown
