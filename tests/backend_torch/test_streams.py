"""Between libraries on a GPU, work is queued on one stream; here, as though there were a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import bilevel
from bilevel import Backend, compose, registry
from bilevel.protocol import Stream

ROUTES = np.array([[[0, 3], [2, 1], [1, 0], [3, 2]]])


class Queue(NamedTuple):
    """Says what is done on a stream, in order, as though NumPy and torch worked on a GPU."""

    said: list[str]
    numpy: Backend

    def stream(self, x: Any) -> Stream:
        self.said.append(f"ask {type(x).__module__}")
        return Stream(0, 7)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self.said.append(f"on {stream.pointer}")
        yield
        self.said.append(f"off {stream.pointer}")


@pytest.fixture
def queue(torch: ModuleType, stand_in: Callable[[str, Backend], None]) -> Queue:
    """torch has streams, and the backend for NumPy joins them."""
    numpy, home = registry.load("numpy"), registry.choose(registry.describe(torch.ones(1)))
    vjp = numpy.bra_vjp
    assert vjp is not None
    said: list[str] = []
    queue = Queue(said, numpy)

    def saying(what: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            said.append(what)
            return function(*arguments)

        return call

    def bra_vjp(*arguments: Any) -> Any:
        said.append("forward")
        out, pullback = vjp(*arguments)
        return out, saying("backward", pullback)

    exchange = numpy.exchange._replace(
        take=saying("take", numpy.exchange.take),
        give=saying("give", numpy.exchange.give),
        on=queue.on,
    )
    joining = replace(numpy, exchange=exchange, bra_vjp=bra_vjp, bra=saying("bra", composed(numpy)))
    with_streams = replace(home, exchange=home.exchange._replace(stream=queue.stream))
    stand_in(home.name, with_streams)
    return queue._replace(numpy=joining)


def composed(backend: Backend) -> Any:
    return lambda *arguments: compose.bra(replace(backend, bra=None), *arguments)


def test_all_that_another_library_does_is_on_our_stream(torch: ModuleType, queue: Queue) -> None:
    x = torch.ones(1, 4, 4, 2, 3)
    bilevel.bra(x, x, x, regions=2, routes=torch.from_numpy(ROUTES), backend=queue.numpy)
    assert queue.said == ["ask torch", "on 7", *["take"] * 4, "bra", "give", "off 7"]


def test_so_is_the_backward_pass(torch: ModuleType, queue: Queue) -> None:
    x = torch.ones(1, 4, 4, 2, 3, requires_grad=True)
    routes = torch.from_numpy(ROUTES)
    out = bilevel.bra(x, x, x, regions=2, routes=routes, backend=queue.numpy)
    assert queue.said == ["ask torch", "on 7", *["take"] * 4, "forward", "give", "off 7"]
    queue.said.clear()
    out.sum().backward()
    assert queue.said == ["ask torch", "on 7", "take", "backward", *["give"] * 3, "off 7"]


def test_a_library_without_streams_joins_none(torch: ModuleType, queue: Queue) -> None:
    """As torch on a CPU, or NumPy itself."""
    x = np.ones((1, 4, 4, 2, 3))
    bilevel.bra(x, x, x, regions=2, topk=2, backend="torch")
    assert queue.said == []
    tensor = torch.from_numpy(x)
    assert registry.load("torch").exchange.on is not None
    bilevel.bra(tensor, tensor, tensor, regions=2, topk=2, backend="numpy")
    assert queue.said == []


class OnCuda(NamedTuple):
    """As much of a tensor as torch's stream looks at."""

    device: Any


def test_the_stream_of_torch_comes_with_its_memory(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = registry.load("torch").exchange
    assert exchange is not None
    assert exchange.stream is not None
    assert exchange.stream(torch.ones(3)) is None
    current = SimpleNamespace(device_index=1, cuda_stream=7)
    said: list[Any] = []

    def allocate(*arguments: Any) -> int:
        said.append(arguments)
        return 4096

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "caching_allocator_alloc", allocate)
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", said.append)
    found = exchange.stream(OnCuda(torch.device("cuda", 1)))
    assert found is not None
    assert found[:2] == (1, 7)
    assert found.__cuda_stream__() == (0, 7)
    assert found.malloc is not None
    assert found.free is not None
    assert found.malloc(100, 1) == 4096
    found.free(4096, 1)
    assert said == [(100, 1, current), 4096]
