"""Objects of any class beside the weights, which are not looked up; and modules saved whole."""

from __future__ import annotations

import argparse
import enum
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilevel import InputError, WeightsError, models
from bilevel.models.pickles import MAGIC_NUMBER, read
from tests.models.checkpoint_files import (
    MICRO,
    OFFICIAL,
    OURS,
    Params,
    assert_equal,
)


@contextmanager
def classes_that_go_away() -> Iterator[types.ModuleType]:
    """A module whose classes can be pickled, and are gone when they are read."""
    module = types.ModuleType("gone_away")
    exec(  # as a library that is not installed where the file is read
        "class Config(dict): pass\n"
        "class Slots:\n __slots__ = ('a',)\n"
        "class Listing(list): pass\n"
        "class Many(set): pass\n"
        "class WithState:\n def __getstate__(self): return [1, 2]\n"
        "class Net:\n pass\n"
        "def function(): pass\n",
        module.__dict__,
    )
    sys.modules["gone_away"] = module
    try:
        yield module
    finally:
        del sys.modules["gone_away"]


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("form", ["zip", "legacy", *range(6)])
def test_metadata_of_any_class_do_no_harm(tmp_path: Path, form: str | int) -> None:
    with classes_that_go_away() as gone:
        config, slots = gone.Config(lr=0.1), gone.Slots()
        slots.a = 1
        metadata = {
            "args": argparse.Namespace(output=Path("a"), scale=np.float32(2), size=torch.Size([1])),
            "config": config,
            "callbacks": [
                gone.Net() if form in (0, 1) else slots,
                gone.Listing([1, 2]),
                gone.WithState(),
                gone.Many({1}),
            ],
            "seen": {Path("a"): gone.function, Colour.RED: {gone.function, Path("b")}},
            "counts": defaultdict(list, a=[1]),
            "random": np.random.default_rng(0).bit_generator.state,
            "array": np.arange(3),
            "bytes": b"\xff\x00",
            "device": torch.device("cpu"),
            "dtype": torch.float16,
        }
        content = metadata | {"state_dict": OrderedDict(OFFICIAL)}
        path = tmp_path / "file.ckpt"
        if isinstance(form, int):
            path.write_bytes(pickle.dumps(content, form))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    before = set(sys.modules)
    assert_equal(models.load_official(path, MICRO), OURS)
    assert set(sys.modules) == before


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def harmful(sign: Path) -> list[Harmful]:
    touch = f"open({str(sign)!r}, 'w').close()"
    return [
        Harmful((os.system, (f"touch {sign}",))),
        Harmful((exec, (touch,))),
        Harmful((eval, (touch,))),
        Harmful((os.mkdir, (str(sign),))),
        Harmful((getattr(Path, "touch"), (sign,))),  # noqa: B009 # as pickles spell methods
        Harmful((torch.load, (str(sign),))),
        Harmful((Harmful, ((),), {"call": 1}, iter([1]), iter([(1, 2)]))),
    ]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("index", range(7))
def test_nothing_in_a_file_is_run(tmp_path: Path, index: int, legacy: bool) -> None:
    sign = tmp_path / "sign"
    path, bad = tmp_path / "evil.pth", harmful(sign)[index]
    torch.save({"model": OFFICIAL, "x": bad}, path, _use_new_zipfile_serialization=not legacy)
    assert_equal(models.load_official(path, MICRO), OURS)
    torch.save({"model": bad}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"expected a checkpoint of tensors, .*evil\.pth holds a"):
        models.load_official(path, MICRO)
    path.write_bytes(pickle.dumps(bad, 2))
    with pytest.raises(InputError, match=r"holds a [\w.]+, which is not looked up because it coul"):
        models.load_official(path, MICRO)
    assert not sign.exists()


class Block(nn.Module):
    """A module that is pickled as a whole."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        names = {name.split(".")[0] for name in params}
        for first in sorted(names):
            below = {n.split(".", 1)[1]: v for n, v in params.items() if n.split(".")[0] == first}
            leaves = {name for name in below if "." not in name}
            if not leaves:
                self.add_module(first, Block(below))
                continue
            layer = nn.Module()
            for name in leaves:
                if "running" in name or "num" in name:
                    layer.register_buffer(name, below[name])
                else:
                    layer.register_parameter(name, nn.Parameter(below[name]))
            self.add_module(first, layer)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_module_pickled_as_a_whole_loads(
    tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"epoch": 1, "model": nn.DataParallel(Block(OFFICIAL))}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    monkeypatch.delattr(sys.modules[__name__], "Block")
    assert_equal(models.load_official(tmp_path / "m.pt", MICRO), OURS)


class Compiled(nn.Module):
    """Names parameters as the module that torch.compile returns, which takes long to import."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        Compiled,
        lambda m: Compiled(nn.DataParallel(m)),
        lambda m: nn.DataParallel(nn.ModuleDict({"backbone": Compiled(m)})),
        lambda m: torch.optim.swa_utils.AveragedModel(m, use_buffers=True),
    ],
)
def test_wrappers_of_torch_load(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = Block({name: value.clone() for name, value in OFFICIAL.items()})
    stages = module.get_submodule("stages")
    stages.register_module("0", Compiled(stages.get_submodule("0")))
    torch.save(wrap(module).state_dict(), tmp_path / "m.pt")
    assert_equal(models.load_official(tmp_path / "m.pt", MICRO), OURS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint16])
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_as_they_were_saved(
    tmp_path: Path, dtype: torch.dtype, legacy: bool
) -> None:
    shared = torch.arange(10_000).to(dtype)
    views, start = {}, 0
    for name, value in OFFICIAL.items():
        if value.shape:
            views[name] = shared[start:].as_strided(value.shape, value.stride())
            start += 1
        else:
            views[name] = value
    kernel = "stages.0.0.mlp.0.weight"
    views[kernel] = torch.arange(64).reshape(8, 8).to(dtype).t()  # not contiguous
    views["norm.bias"] = nn.Parameter(views["norm.bias"], dtype.is_floating_point)
    path = tmp_path / "views.pth"
    torch.save(views, path, _use_new_zipfile_serialization=not legacy)
    expected = models.from_official({n: v.detach() for n, v in views.items()}, MICRO)
    assert_equal(models.load_official(path, MICRO), expected)


class AsBefore(pickle.Pickler):
    """Writes tensors as torch did when several storages could be views of one."""

    size = 40

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            view = ("view", 30, 10)
            return ("storage", torch.FloatStorage, "all", "cpu", self.size, view)
        return None


class Rebuilt:
    """Pickled as the tensor of a storage."""

    def __reduce__(self) -> tuple[Any, ...]:
        arguments: tuple[Any, ...] = (torch.zeros(1), 2, (8,), (1,), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.parametrize("size", [40, 10**12])
def test_storages_that_are_views_are_read(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.pth"
    monkeypatch.setattr(AsBefore, "size", size)
    with path.open("wb") as file:
        part: Any
        for part in (MAGIC_NUMBER, 1001, {}):
            pickle.dump(part, file, 2)
        AsBefore(file, 2).dump({"bias": Rebuilt()})
        pickle.dump(["all"], file, 2)
        file.write(size.to_bytes(8, "little") + np.arange(40, dtype=np.float32).tobytes())
    if size == 40:
        with path.open("rb") as file:
            found = read(file, path.stat().st_size, {})
        assert found["bias"].tolist() == [32, 33, 34, 35, 36, 37, 38, 39]
    else:
        with pytest.raises(InputError, match="truncated pickle: 1000000000000 elements do not fi"):
            models.load_official(path)


def test_text_of_python_2_does_no_harm(tmp_path: Path) -> None:
    data = pickle.dumps({"model": OFFICIAL, "by": "ZZ"}, 2)
    unicode, text = b"X\x02\0\0\0ZZ", b"U\x02\xff\xfe"
    assert unicode in data
    (tmp_path / "old.pkl").write_bytes(data.replace(unicode, text))
    assert_equal(models.load_official(tmp_path / "old.pkl", MICRO), OURS)


def test_a_file_of_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    torch.save(OFFICIAL, tmp_path / "this.pth")
    with zipfile.ZipFile(tmp_path / "this.pth") as a, zipfile.ZipFile(tmp_path / "b", "w") as b:
        for name in a.namelist():
            b.writestr(name, b"big" if name.endswith("byteorder") else a.read(name))
    with pytest.raises(InputError, match="its numbers are big-endian"):
        models.load_official(tmp_path / "b", MICRO)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save(OFFICIAL, tmp_path / "a.pth")
    assert_equal(models.load_official("~/a.pth", MICRO), OURS)


def test_an_error_names_the_class_that_stood_in_the_way(tmp_path: Path) -> None:
    params = {**OFFICIAL, "norm.weight": np.ones(16), "norm.bias": Path("a")}
    torch.save(params, tmp_path / "a.pth")
    message = r"a\.pth: expected.*missing norm\.weight.*\(not read: numpy.*, pathlib\.[\w.]+"
    with pytest.raises(WeightsError, match=message):
        models.load_official(tmp_path / "a.pth", MICRO)
