"""``bilevel eval``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class Evaluate:
    """Test accuracy of a trained run."""

    run: Positional[Path]
    """Folder of the run."""
    device: str | None = None
    """Where to compute; by default where it was trained."""

    def __call__(self) -> None:
        from bilevel.train import data
        from bilevel.train.loop import load_data, load_run
        from bilevel.train.step import evaluate

        run = load_run(self.run, self.device)
        test = load_data(run.config).test
        metrics = evaluate(run.model, data.batches(test, run.config))
        print(f"test loss {metrics.mean_loss:.4f}")
        print(f"test accuracy {metrics.accuracy:.4f}")
