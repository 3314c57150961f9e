"""Steps whose loss or gradients were not finite, and were skipped: seen, kept to be looked into,
and too many in a row the end of a run."""

from __future__ import annotations

import json
from typing import NamedTuple

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.train.distributed import World
from bilevel.train.loader import Planned
from bilevel.train.metrics import Sums
from bilevel.train.run import Run
from bilevel.train.step import State

MOST = 10
"""Skipped steps in a row, after which a run ends."""
KEPT = 10
"""Batches that are kept at most: the first ones."""


class _Seen(NamedTuple):
    step: int
    skipped: Tensor
    sums: Sums


class Watch:
    """Looks at steps once in a while: each look waits for the device."""

    def __init__(self, run: Run, world: World, planned: Planned, console: Console) -> None:
        self._run, self._world, self._planned, self._console = run, world, planned, console
        self._seen: list[_Seen] = []

    def counted(self, state: State, sums: Sums) -> Sums:
        """What a step measured, after which the state is this one: nothing if it was skipped."""
        self._seen.append(_Seen(state.step - 1, state.skipped, sums))
        return sums.where(state.skipped == 0)

    def look(self, state: State) -> None:
        """Say and keep what was skipped since the last look.

        Raises InputError where too many steps in a row were skipped.
        """
        seen, self._seen = self._seen, []
        skipped = torch.stack([each.skipped for each in seen]).tolist() if seen else []
        for each, in_a_row in zip(seen, skipped, strict=True):
            measured = self._world.total(each.sums) if in_a_row else each.sums
            if in_a_row and not (state.scaler.is_enabled() and _is_finite(measured)):
                said = self._note(each.step, measured, state.schedule(each.step))
                if in_a_row >= MOST:
                    self._world.fail(
                        f"{in_a_row} steps in a row were not finite and changed nothing, the last "
                        f"was {said}; look into {self._run.not_finite}, lower --lr or give "
                        "--clip-grad, then go on from the checkpoint or begin anew"
                    )
                self._console.print(f"not finite, skipped: {said}")

    def _note(self, step: int, sums: Sums, lr: float) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in sums.means().items())
        said = f"step {step}: {numbers}, learning rate {lr:.3g}"
        self._world.by_first(lambda: self._keep(step, said))
        return said

    def _keep(self, step: int, said: str) -> None:
        """Write the images of a step as they were read, before they are mixed."""
        folder = self._run.not_finite
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{step}.safetensors"
        if path.exists() or len(list(folder.iterdir())) >= KEPT:
            return
        batch = self._planned.global_batch(step)
        samples = [sample._asdict() for sample in self._planned.plan.global_samples(step)]
        try:
            with replacing(path) as partial:
                tensors = {"images": batch.images, "labels": batch.labels}
                save_file(
                    {name: x.contiguous() for name, x in tensors.items() if torch.is_tensor(x)},
                    partial,
                    {"said": json.dumps({"said": said, "samples": samples})},
                )
        except OSError as error:
            raise InputError(f"cannot keep a batch that was not finite: {error}") from error


def _is_finite(sums: Sums) -> bool:
    return all(torch.as_tensor(value).isfinite().all() for value in sums.values.values())
