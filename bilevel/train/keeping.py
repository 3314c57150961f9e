"""When a run saves itself, and what of it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bilevel.train import checkpoint, table
from bilevel.train.distributed import World
from bilevel.train.metrics import Sums
from bilevel.train.run import Run
from bilevel.train.step import State
from bilevel.train.table import Row


class Keeper:
    """Saves a run, at the ends of epochs and every few minutes between; the first process writes.
    The last few checkpoints are kept, and the best."""

    def __init__(self, run: Run, world: World, steps_per_epoch: int) -> None:
        self._run, self._world, self._steps = run, world, steps_per_epoch
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether so many minutes have passed; by the clock of the first process."""
        passed = time.monotonic() - self._saved
        return self._world.first and passed >= 60 * self._run.config.save_minutes

    def within_epoch(self, state: State, rows: Sequence[Row], sums: Sums | None) -> None:
        """Save an epoch that is under way, with the sums of this process so far."""
        self._save(state, rows, sums)

    def after_epoch(self, state: State, rows: Sequence[Row]) -> None:
        """Save an epoch that was tested, the last of the rows."""
        # In this order: of a table that is ahead of the checkpoint, the last row is redone.
        self._world.by_first(lambda: table.write(list(rows), self._run.table))
        self._save(state, rows, None)

    def _save(self, state: State, rows: Sequence[Row], sums: Sums | None) -> None:
        total = None if sums is None else self._world.total(sums)
        content = checkpoint.content(state, len(rows), self._run.lasting(), total)
        self._world.by_first(lambda: self._write(content, rows))
        self._saved = time.monotonic()

    def _write(self, content: checkpoint.Content, rows: Sequence[Row]) -> None:
        folder = self._run.checkpoints
        checkpoint.write(checkpoint.path_of(folder, content.position.step), content)
        checkpoint.prune(folder, best_epoch(rows) * self._steps if rows else None)


def best_epoch(rows: Sequence[Row]) -> int:
    """The epoch, counted from 1, whose test was best by the number that a model is judged by, the
    last one; the first of several."""
    scores = [list(table.measured(row, "test").values())[-1] for row in rows]
    return scores.index(max(scores)) + 1
