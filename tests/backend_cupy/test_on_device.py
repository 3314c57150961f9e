"""Where the CuPy backend meets CuPy: what it says without a GPU, and how it joins streams.

Fakes stand for CuPy, and CuPy itself as far as it goes without a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bilevel
from bilevel import Backend, BackendRefused, BackendUnavailable, registry
from bilevel.protocol import Exchange, Problem, Stream
from bilevel_cupy.backend import bind
from bilevel_cupy.exchange import exchange
from tests.frameworks import skip_or_fail

CUDA = Problem("cupy", "cuda", "float32")


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class Finder:
    """Imports a fake CuPy, or fails as CuPy does."""

    def __init__(self, fails: Exception) -> None:
        self.fails = fails

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "cupy":
            raise self.fails


def fake_cupy(count: Callable[[], int], *capabilities: str) -> ModuleType:
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError),
        Device=lambda number: SimpleNamespace(compute_capability=capabilities[number]),
    )
    cupy.from_dlpack = None  # type: ignore[attr-defined]
    return cupy


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of CuPy, nor of its backend, is imported yet; nor is it after the test."""
    registry.forget()
    for name in ("bilevel_cupy.on_device", "cupy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield monkeypatch
    sys.modules.pop("bilevel_cupy.on_device", None)
    registry.forget()


def no_driver() -> int:
    raise CUDARuntimeError("cudaErrorInsufficientDriver:\nCUDA driver version is insufficient")


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (no_driver, "cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
        (lambda: 0, "CUDA counts none"),
    ],
)
def test_no_gpu(fresh: pytest.MonkeyPatch, count: Callable[[], int], reason: str) -> None:
    fresh.setitem(sys.modules, "cupy", fake_cupy(count))
    x = np.ones((1, 4, 4, 1, 2), np.float32)
    with pytest.raises(BackendUnavailable) as caught:
        bilevel.bra(x, x, x, regions=2, backend="cupy")
    assert str(caught.value) == (
        f"backend 'cupy' needs an NVIDIA GPU and its driver, and finds none here ({reason}); "
        "use another backend, bilevel.backends() lists them"
    )


def test_no_cupy(fresh: pytest.MonkeyPatch) -> None:
    fresh.setitem(sys.modules, "cupy", None)
    message = (
        r"'cupy' does not import \(.*cupy.*\); install it with: .*pip install \"bilevel\[cupy\]"
    )
    with pytest.raises(BackendUnavailable, match=message):
        registry.load("cupy")


def test_a_cupy_that_does_not_load(fresh: pytest.MonkeyPatch) -> None:
    cause = ImportError("libnvrtc.so.13: cannot open shared object file")
    failure = ImportError("\n======\nFailed to import CuPy.\n======\n")
    failure.__cause__ = cause
    fresh.setattr(sys, "meta_path", [Finder(failure), *sys.meta_path])
    message = r"installed, but does not load \(libnvrtc.*file\); install the one for .*cuda12x$"
    with pytest.raises(BackendUnavailable, match=message):
        registry.load("cupy")


@pytest.mark.parametrize(
    ("capabilities", "fused"), [(["80"], True), (["120", "90"], True), (["90", "75"], False)]
)
def test_with_a_gpu(fresh: pytest.MonkeyPatch, capabilities: list[str], fused: bool) -> None:
    fresh.setitem(sys.modules, "cupy", fake_cupy(lambda: len(capabilities), *capabilities))
    compiling = SimpleNamespace(RawModule=None)
    fresh.setitem(sys.modules, "array_api_compat", SimpleNamespace(cupy=compiling))
    backend = registry.load("cupy")
    assert (backend.name, backend.library) == ("cupy", "cupy")
    assert backend.exchange is not None
    assert (backend.bra is not None) == fused
    assert backend.bra_vjp is not None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_it_takes(dtype: str) -> None:
    backend = bind(np)
    assert backend.refuses(CUDA._replace(dtype=dtype, head_dim=500, axes=5)) is None
    assert backend.refuses(CUDA._replace(dtype="int64")) is not None
    assert backend.refuses(CUDA._replace(device="cpu")) is not None


def test_arrays_elsewhere_are_told_how_to_move(stand_in: Callable[[str, Backend], None]) -> None:
    nothing = Exchange(take=lambda x: x, give=lambda x: x)
    stand_in("cupy", bind(np, nothing))
    x = np.ones((1, 4, 4, 1, 2), np.float32)
    with pytest.raises(BackendRefused, match=r"on CUDA, got .* on cpu; move them: cupy.asarray\(x"):
        bilevel.bra(x, x, x, regions=2, backend="cupy")


def said_by_contexts(said: list[Any]) -> Callable[..., Any]:
    @contextmanager
    def context(*what: Any) -> Iterator[None]:
        said.append(what)
        yield
        said.append(("end", *what))

    return context


def cupy_with_streams(said: list[Any], new: bool) -> Any:
    """As much of CuPy as joins a stream, before CuPy 14 or since."""
    context = said_by_contexts(said)
    since = {"from_external": lambda stream: context("stream", *stream.__cuda_stream__())}
    cuda = SimpleNamespace(
        Device=lambda number: context("device", number),
        Stream=SimpleNamespace(**since if new else {}),
        ExternalStream=lambda pointer, device: context("stream", pointer, device),
        PythonFunctionAllocator=lambda *functions: SimpleNamespace(malloc=functions),
        using_allocator=lambda functions: context("memory", *functions),
        get_current_stream=lambda device: SimpleNamespace(ptr=100 + device),
    )
    return SimpleNamespace(cuda=cuda, from_dlpack=None, ascontiguousarray=np.ascontiguousarray)


def malloc(size: int, device: int) -> int:
    raise AssertionError("nothing asks for memory here")


def free(address: int, device: int) -> None:
    raise AssertionError("nothing gives memory back here")


@pytest.mark.parametrize("new", [True, False], ids=["from_external", "ExternalStream"])
def test_work_is_on_the_device_the_stream_and_in_the_memory_of_the_caller(new: bool) -> None:
    said: list[Any] = []
    on = exchange(cupy_with_streams(said, new)).on
    assert on is not None
    with on(Stream(1, 7, malloc, free)):
        said.append("work")
    stream = ("stream", 0, 7) if new else ("stream", 7, 1)
    entered = [("device", 1), stream, ("memory", malloc, free)]
    assert said == [*entered, "work", *(("end", *what) for what in reversed(entered))]
    said.clear()
    with on(Stream(1, 7)):  # of a library that gives no memory away
        pass
    assert [what[0] for what in said] == ["device", "stream", "end", "end"]


def test_the_stream_of_cupy_is_that_of_the_arrays_device() -> None:
    found = exchange(cupy_with_streams([], True)).stream
    assert found is not None
    assert found(SimpleNamespace(device=SimpleNamespace(id=1))) == Stream(1, 101)


def test_negative_strides_are_copied() -> None:
    give = exchange(cupy_with_streams([], True)).give
    x = np.arange(6.0)
    assert give(x) is x
    assert give(x[::2]).strides == (16,)
    assert give(x[::-1]).strides == (8,)


WITHOUT_A_GPU = """
import ctypes, warnings
warnings.simplefilter("error")
import cupy, ml_dtypes, numpy as np

class Tensor(ctypes.Structure):  # DLPack's
    _fields_ = [("data", ctypes.c_void_p), ("device", ctypes.c_int), ("number", ctypes.c_int),
                ("ndim", ctypes.c_int), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64),
                ("owner", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]

new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
shape, kept = (ctypes.c_int64 * 5)(1, 4, 4, 1, 2), []

def array(code, bits):
    "An array on CUDA, whose memory nobody may read."
    kept.append(Tensor(4096, 2, 0, 5, code, bits, 1, shape, None, 0))
    return cupy.from_dlpack(new(ctypes.addressof(kept[-1]), b"dltensor", None))

import bilevel
from bilevel import registry
from bilevel_cupy.backend import refuses

bfloat16 = () if cupy.__version__ < "14" else ((4, 16),)  # CuPy takes none before
for code, bits in ((2, 16), *bfloat16, (2, 32), (2, 64)):
    problem = registry.describe(array(code, bits))
    print(*problem[:3], refuses(problem))
try:
    cupy.cuda.runtime.getDeviceCount()
    print("a GPU")
    raise SystemExit
except cupy.cuda.runtime.CUDARuntimeError:
    pass
x = array(2, 32)
for arguments, how in (((x, x, x), {}), ((np.ones(shape, np.float32),) * 3, {"backend": "cupy"})):
    try:
        bilevel.bra(*arguments, regions=2, **how)
    except bilevel.BilevelError as error:
        print(type(error).__name__, error)
"""


def as_far_as_it_goes(lines: list[str]) -> tuple[list[str], list[str]]:
    """What is said of arrays, and of calls without a GPU: of none where there is one."""
    if lines and lines[-1] == "a GPU":
        return lines[:-1], []
    return lines[:-2], lines[-2:]


def test_a_gpu_is_told_from_calls_that_fail() -> None:
    arrays, calls = [f"cupy cuda {i} None" for i in range(4)], ["refused", "unavailable"]
    assert as_far_as_it_goes([*arrays, "a GPU"]) == (arrays, [])
    assert as_far_as_it_goes(arrays + calls) == (arrays, calls)


def test_cupy_itself_as_far_as_it_goes() -> None:
    """Its arrays are recognised, from CuPy 14 on those of bfloat16 too, and it is not its traceback
    that users see where there is no GPU."""
    version = registry.version_of(registry.specs()["cupy"])
    if version is None:
        skip_or_fail("cupy", "CuPy is not installed")
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_GPU], capture_output=True, text=True)
    described, refused = as_far_as_it_goes(done.stdout.splitlines())
    dtypes = ("float16", *(() if version < "14" else ("bfloat16",)), "float32", "float64")
    assert described == [f"cupy cuda {dtype} None" for dtype in dtypes], done.stderr
    if not refused:
        pytest.skip("there is a GPU here, and CuPy refuses nothing")
    own, asked = refused
    assert "BackendRefused backend 'cupy' needs an NVIDIA GPU and its driver" in own
    assert "BackendUnavailable backend 'cupy' needs an NVIDIA GPU and its driver" in asked
