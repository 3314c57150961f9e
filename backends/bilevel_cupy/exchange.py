"""CuPy's arrays, streams and memory between it and other libraries; each function takes the module
``cupy`` first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from bilevel.protocol import Array, Exchange, Stream


def exchange(cupy: Any) -> Exchange:
    """How CuPy shares arrays; those of bfloat16 since CuPy 14, which needs ml_dtypes for them."""
    return Exchange(
        take=cupy.from_dlpack,
        give=partial(give, cupy),
        stream=partial(stream, cupy),
        on=partial(on, cupy),
    )


def give(cupy: Any, x: Array) -> Array:
    """``x`` as other libraries take it: copied if its strides are negative."""
    return cupy.ascontiguousarray(x) if any(stride < 0 for stride in x.strides) else x


def stream(cupy: Any, x: Array) -> Stream:
    """The current stream of the device of ``x``."""
    device = x.device.id
    return Stream(device, cupy.cuda.get_current_stream(device).ptr)


@contextmanager
def on(cupy: Any, stream: Stream) -> Iterator[None]:
    """Makes a stream of another library CuPy's current one, and its memory CuPy's: what CuPy keeps
    in a pool of its own, no other library could use, and no graph that it captures would hold."""
    with ExitStack() as within:
        within.enter_context(cupy.cuda.Device(stream.device))
        within.enter_context(_joined(cupy, stream))
        if stream.malloc is not None:
            allocator = cupy.cuda.PythonFunctionAllocator(stream.malloc, stream.free)
            within.enter_context(cupy.cuda.using_allocator(allocator.malloc))
        yield


def _joined(cupy: Any, stream: Stream) -> Any:
    """The stream as one of CuPy, which does not own it."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.pointer, stream.device)  # before CuPy 14
