"""Training in processes of its own, to be killed: alone, or several that share a run.

As a program, what torchrun starts: ``processes.py FOLDER DATA``, which dies in its first life.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console

from bilevel.cli import ends
from bilevel.models import BiFormerConfig
from bilevel.models.config import MODELS
from bilevel.train import checkpoint, loop, start
from bilevel.train.config import TrainConfig

TINY = BiFormerConfig(
    depths=(1, 1), embed_dims=(8, 16), topk=(1, None), head_dim=8, regions=2, drop_path=0.3
)
"""In the place of biformer_micro: a step takes milliseconds."""
STEPS = 16
CONFIG = TrainConfig(
    data="",
    model="biformer_micro",
    image_size=32,
    epochs=4,
    batch_size=4,
    lr=0.05,
    warmup_epochs=1,
    opt="sgd",
    model_ema_decay=0.8,
    aug_repeats=1,
    save_minutes=0,  # after each step
    sync_bn=True,
    workers=0,
)
"""Four epochs of four steps on the stripes."""


class Ended(NamedTuple):
    """How a process ended: its exit code, the signal below zero, and what it said."""

    code: int
    said: str


class Several:
    """The processes of a run."""

    def __init__(self, config: TrainConfig, ranks: int, log: Path, meddle: Any = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.train.preloaded"])
        self._logs = [log.with_name(f"{log.name}-{rank}") for rank in range(ranks)]
        port = _free_port()
        self.processes = [
            context.Process(
                target=_life, args=(config, rank, ranks, port, self._logs[rank], meddle)
            )
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def kill(self, rank: int = 0, number: int = signal.SIGKILL) -> None:
        """Send a signal, if the process is still there."""
        pid = self.processes[rank].pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def is_alive(self) -> bool:
        """Whether none of them ended."""
        return all(process.is_alive() for process in self.processes)

    def ended(self, seconds: float = 600) -> list[Ended]:
        """How all of them ended, by rank; those that did not are killed and fail the test."""
        for process in self.processes:
            process.join(seconds)
            if process.is_alive():
                process.kill()
                raise AssertionError("a process did not end")
        codes = [process.exitcode for process in self.processes]
        said = [log.read_text() if log.exists() else "" for log in self._logs]
        return [Ended(code or 0, each) for code, each in zip(codes, said, strict=True)]


def train_alone(config: TrainConfig, log: Path, meddle: Any = None) -> Ended:
    """Begin a run, or go on with it, to its end."""
    return Several(config, 1, log, meddle).ended()[0]


class DieInSave(NamedTuple):
    """What makes a process die while it writes the checkpoint of a step."""

    step: int

    def __call__(self) -> None:
        save: Any = vars(checkpoint)["save_file"]

        def write(tensors: Any, path: Path, metadata: Any) -> None:
            save(tensors, path, metadata)
            if f"step-{self.step}." in path.name:
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        pytest.MonkeyPatch().setattr(checkpoint, "save_file", write)


class DieBefore(NamedTuple):
    """What makes a process of a rank end before a step, by a signal or with an error."""

    step: int
    rank: int
    error: str = ""

    def __call__(self) -> None:
        if int(os.environ.get("RANK", "0")) != self.rank:
            return
        step: Any = vars(loop)["step"]

        def dying(state: Any, batch: Any) -> Any:
            if state.step == self.step:
                if self.error:
                    raise ValueError(self.error)
                os.kill(os.getpid(), signal.SIGKILL)
            return step(state, batch)

        pytest.MonkeyPatch().setattr(loop, "step", dying)


def _life(config: TrainConfig, rank: int, ranks: int, port: int, log: Path, meddle: Any) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    world = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in world.items()}
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a program of its own
    torch.set_num_threads(1)
    MODELS["biformer_micro"] = TINY
    if meddle is not None:
        meddle()
    ends.run(lambda: _train(config), debug=False)
    sys.stdout.flush()
    os._exit(0)  # what FSDP2 and gloo do at the end of a process may abort it, when all is done


def _train(config: TrainConfig) -> None:
    start.train(config, Console(file=sys.stdout, width=1000), auto=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    """One of the processes that torchrun starts: the second ends in its first life."""
    torch.set_num_threads(1)
    MODELS["biformer_micro"] = TINY
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        DieBefore(6, rank=1)()
    config = replace(CONFIG, out=Path(sys.argv[1]), data=sys.argv[2])
    ends.run(lambda: _train(config), debug=False)


if __name__ == "__main__":
    main()
