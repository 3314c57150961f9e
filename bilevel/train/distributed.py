"""Several processes that train one model together, as torchrun starts them; or one alone.

Each has a rank, a device of its own, and a share of every batch. They agree on what they do by
small messages between their CPUs, for which no device waits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import add
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from bilevel.errors import AnotherProcess, BilevelError, InputError
from bilevel.models.modules import Stage
from bilevel.train.metrics import Sums

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for hung. Of one that ended, the
others hear at once."""

_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|socket", re.IGNORECASE)


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. Every method is called by all of them, at
    the same point of their work; in a process alone there is nothing to wait for."""

    rank: int = 0
    ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def largest(self, *numbers: int) -> list[int]:
        """The largest of what all processes say, number by number: what one of them wants is what
        all do."""
        if self.ranks == 1:
            return list(numbers)
        said = torch.tensor(numbers)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return said.tolist()

    def gathered(self, value: T) -> list[T]:
        """What each process says, by rank."""
        if self.ranks == 1:
            return [value]
        said: list[Any] = [None] * self.ranks
        dist.all_gather_object(said, value)
        return said

    def total(self, sums: Sums | None) -> Sums:
        """The sums over all images of all processes, of which one or more have some."""
        said = self.gathered(sums and sums.to("cpu")) if self.ranks > 1 else [sums]
        return reduce(add, [each for each in said if each is not None])

    def together(self, function: Callable[[], T]) -> T:
        """What a function returns in this process; all of them call it.

        Where it raises an error of bilevel or of the system, all processes end: the first of those
        that it came to raises it, and the others AnotherProcess.
        """
        if self.ranks == 1:
            return function()
        error: Exception | None = None
        try:
            value = function()
        except (BilevelError, OSError) as failed:
            error = failed
        said = self.gathered(error is not None)
        if any(said):
            if error is not None and said.index(True) == self.rank:
                raise error
            raise AnotherProcess(f"process {said.index(True)} of the run failed")
        return value

    def by_first(self, function: Callable[[], T]) -> T:
        """What a function returns in the first process, which alone calls it; errors are those of
        :meth:`together`."""
        found = self.together(lambda: function() if self.first else None)
        return self._told(found)

    def fail(self, message: str) -> NoReturn:
        """End all processes with an InputError of the first."""
        raise InputError(message) if self.first else AnotherProcess(message)

    def _told(self, value: Any) -> Any:
        """What the first process says."""
        if self.ranks == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first: running statistics are of the images that a
        process sees, and what is saved and tested is the first one's."""
        if self.ranks > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def replica(self, model: nn.Module, shard: bool) -> nn.Module:
        """The model as steps are to call it, so that gradients are the mean over all processes; its
        parameters and names are those of ``model``, which is split over them if ``shard`` is set.
        """
        if self.ranks == 1:
            return model
        if shard:
            return _sharded(model)
        return nn.parallel.DistributedDataParallel(model)


ALONE = World()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Within, this process is one of those that torchrun started, if it did, and its device is the
    one of its own.

    Raises InputError where another process ended, or where there is no such device.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield World()
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        _take_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        _join(backend)
        yield World(dist.get_rank(), ranks)
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"another process of the run ended early: {line}") from error
    dist.barrier()  # one that is gone while another still talks to it is an error there
    dist.destroy_process_group()


def _join(backend: str) -> None:
    """Meet the other processes. Where torchrun started them again, it may keep the store in which
    they find each other: each life has names of its own there, else it would find the dead."""
    store, rank, ranks = next(iter(rendezvous("env://", timeout=PATIENCE)))
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    named = PrefixStore(f"bilevel life {life}", store)
    dist.init_process_group(backend, store=named, rank=rank, world_size=ranks, timeout=PATIENCE)


def _take_device(local_rank: int) -> None:
    """From now on, ``cuda`` is the device of that number on this machine."""
    there = torch.cuda.device_count()
    if local_rank >= there:
        raise InputError(
            f"expected a device for each process, got {there} for process {local_rank} of this "
            "machine; start fewer by --nproc-per-node"
        )
    torch.cuda.set_device(local_rank)


def was_restarted() -> bool:
    """Whether torchrun started this process in the place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for stage in [module for module in model.modules() if isinstance(module, Stage)]:
        for block in stage:
            fully_shard(block)
    fully_shard(model)
    return model


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within, a model that is split has all of its parameters in each process, so that each can
    call it as often as it likes."""
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


# Tensors and modules that are split are known by what they can do: to import their classes takes a
# second, which every command would wait for.


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be split over processes as a whole; all of them call it."""
    split: Any = tensor
    return split.full_tensor() if hasattr(split, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Of a tensor that may be split over processes, what this one has."""
    split: Any = tensor
    return split.to_local() if hasattr(split, "to_local") else tensor


def split_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor, split over processes as another one of its shape is."""
    split: Any = other
    if not hasattr(split, "device_mesh") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, split.device_mesh, split.placements)


def _parts(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "set_reshard_after_forward")]
