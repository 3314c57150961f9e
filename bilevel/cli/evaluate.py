"""``bilevel eval``"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        from bilevel.train.loader import InOrder
        from bilevel.train.run import find_data, load
        from bilevel.train.step import evaluate
        from bilevel.train.tasks import task_of

        run, model = load(self.run, self.device)
        run = replace(run, config=replace(run.config, label_maps=None))  # those are to train
        test = InOrder(find_data(run), run.config)
        for name, value in evaluate(task_of(run.config), model, test).items():
            print(f"test {name} {value:.4f}")
