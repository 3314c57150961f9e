"""Tensors out of pickled files, by a reader that runs nothing of what a file asks for.

A pickle names functions and classes and calls them. Here a name is looked up in a short table of
this module's own functions, which make tensors; every other name becomes a :class:`Placeholder`,
which does nothing. Hence the weights load whatever metadata lie beside them.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # begins files that torch wrote before 1.6
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class Placeholder(dict[Any, Any]):
    """Stands for an object of a class that is not looked up. It keeps what it is given, as items:
    a module's parameters may be among them."""

    origin = ""
    """The class, with its module."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return self

    __hash__ = object.__hash__  # type: ignore[assignment] # it may be a key or in a set

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # attributes, slots
            if isinstance(part, dict):
                self.update(part)

    def append(self, item: Any) -> None:
        self[len(self)] = item

    add = append


class StateDict(dict[Any, Any]):
    """Stands for an OrderedDict, without the attributes that torch gives it."""

    def __setstate__(self, state: Any) -> None:
        pass


class Reader(pickle.Unpickler):
    """One pickle; ``storage`` gives the elements of a storage: dtype, key and number to a tensor.

    ``strangers`` is filled with the classes and functions for which placeholders stand.
    """

    def __init__(
        self,
        file: BinaryIO,
        strangers: dict[str, type[Placeholder]],
        storage: Callable[[torch.dtype, str, int], Tensor] | None = None,
    ) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._strangers, self._storage = strangers, storage
        self._known: dict[str, Any] = {
            "collections.OrderedDict": StateDict,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_dtype,
            "torch._utils._rebuild_parameter": self._first,
            "torch._utils._rebuild_parameter_with_state": self._first,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": self._first,
            "torch._tensor._rebuild_from_type_v2": self._without_type,
            "torch.storage._load_from_bytes": self._inner,
            "_codecs.encode": self._encode,
        }

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin in self._known:
            return self._known[origin]
        if module.split(".")[0] == "torch":
            if name in DTYPES:
                return DTYPES[name]
            if isinstance(dtype := vars(torch).get(name), torch.dtype):
                return dtype
        if origin not in self._strangers:
            self._strangers[origin] = type("Placeholder", (Placeholder,), {"origin": origin})
        return self._strangers[origin]

    def persistent_load(self, pid: Any) -> Any:
        kind, what, *rest = pid
        if _text(kind) == "module":  # a class with its source
            return what
        if _text(kind) != "storage" or self._storage is None:
            raise pickle.UnpicklingError(f"expected a storage, got {_text(kind)!r}")
        key, _, size, *view = rest
        elements = self._storage(what, _text(key), size)
        if view and view[0] is not None:
            _, offset, size = view[0]
            return elements[offset : offset + size]
        return elements

    def _tensor(self, storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        return storage.as_strided(size, stride, storage.storage_offset() + offset)

    def _tensor_of_dtype(
        self, storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any
    ) -> Tensor:
        dtype = rest[2]  # after requires_grad and hooks
        return self._tensor(storage.view(torch.uint8).view(dtype), offset, size, stride)

    def _first(self, tensor: Tensor, *_: Any) -> Tensor:
        return tensor

    def _without_type(self, rebuild: Any, _: Any, args: Any, *__: Any) -> Any:
        return rebuild(*args)

    def _inner(self, data: bytes) -> Any:
        return read(BytesIO(data), len(data), self._strangers)

    def _encode(self, text: str, *_: Any) -> bytes:
        return text.encode("latin1")  # how Python writes bytes in old protocols


def read(file: BinaryIO, size: int, strangers: dict[str, type[Placeholder]]) -> Any:
    """The content of a pickled file of ``size`` bytes, in any form that ``torch.save`` had, or
    plainly pickled. A file of any content may make this raise anything."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        return _read_zip(file, strangers)
    file.seek(0)
    first = Reader(file, strangers).load()
    return _read_stream(file, size, strangers) if first == MAGIC_NUMBER else first


def _read_zip(file: BinaryIO, strangers: dict[str, type[Placeholder]]) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if not names:
            raise pickle.UnpicklingError("it is a zip archive, but not one of torch.save")
        root = min(names, key=len).removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist():
            order = archive.read(f"{root}byteorder").decode()
            if order != sys.byteorder:
                raise pickle.UnpicklingError(f"its numbers are {order}-endian")
        loaded: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, size: int) -> Tensor:
            if key not in loaded:
                loaded[key] = _as_tensor(archive.read(f"{root}data/{key}"))
            return loaded[key].view(dtype)

        return Reader(BytesIO(archive.read(f"{root}data.pkl")), strangers, storage).load()


def _read_stream(file: BinaryIO, size: int, strangers: dict[str, type[Placeholder]]) -> Any:
    """What torch wrote before 1.6: pickles, then the elements of each storage."""
    for _ in range(2):  # the version, and what machine it was
        Reader(file, strangers).load()
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, length: int) -> Tensor:
        if key not in storages:
            if not 0 <= length * dtype.itemsize <= size:
                raise EOFError(f"{length} elements do not fit into the file")
            storages[key] = torch.empty(length, dtype=dtype)
        return storages[key]

    content = Reader(file, strangers, storage).load()
    for key in Reader(file, strangers).load():
        file.read(8)  # the number of elements, which is known
        into = storages[_text(key)]
        data = file.read(into.numel() * into.element_size())
        if len(data) < into.numel() * into.element_size():
            raise EOFError("the last tensors are not there")
        into.copy_(_as_tensor(data).view(into.dtype))
    return content


def _as_tensor(data: bytes) -> Tensor:
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
