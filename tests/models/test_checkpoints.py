"""Files that hold a BiFormer, in all the forms in which trainers and people leave them."""

from __future__ import annotations

import argparse
import enum
import gzip
import os
import pickle
import random
import sys
import tarfile
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bilevel import InputError, WeightsError, models
from bilevel.models import BiFormerConfig
from bilevel.models.pickles import MAGIC_NUMBER, read

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))
MICRO = BiFormerConfig(
    depths=(1, 1), embed_dims=(8, 16), topk=(1, None), head_dim=8, mlp_ratio=1, num_classes=10
)
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".PTH", ".safetensors", ".SAFETENSORS", "")
LONGEST = 1200  # characters of a message, with the config in it

Params = dict[str, Tensor]


def micro(config: BiFormerConfig = MICRO, seed: int = 0) -> tuple[Params, Params]:
    """Parameters under our names, and the same under the official ones."""
    generator = torch.Generator().manual_seed(seed)
    ours = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in models.parameter_shapes(config).items()
    }
    return ours, dict(models.to_official(ours, config))


OURS, OFFICIAL = micro()


def assert_equal(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [found[name].dtype for name in expected] == [x.dtype for x in expected.values()]


def prefixed(prefix: str, params: Params) -> Params:
    return {prefix + name: value for name, value in params.items()}


# Files composed at random


class Composed:
    """A file with wrappers, prefixes, neighbours and metadata drawn at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.expected, params = micro()
        self._without_counts_or_ends(params)
        prefixes = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.trunk.")
        for _ in range(self.draw.randrange(4)):
            params = prefixed(self.draw.choice(prefixes), params)
        self.content: Any = params | self._neighbours()
        averaged = self.draw.random() < 0.5
        for _ in range(self.draw.randrange(4)):
            self._wrap(averaged)

    def _without_counts_or_ends(self, params: Params) -> None:
        if self.draw.random() < 0.3:
            for name in [name for name in params if name.endswith("num_batches_tracked")]:
                del params[name]
            for name, value in self.expected.items():
                if name.endswith("num_batches_tracked"):
                    self.expected[name] = torch.zeros_like(value)
        ends = self.draw.choice(((), (), ("head.",), ("head.", "norm.")))
        for group in (params, self.expected):
            for name in [name for name in group if name.startswith(tuple(ends))] if ends else ():
                del group[name]

    def _neighbours(self) -> Params:
        names = (
            "decode_head.conv_seg.weight",
            "neck.fpn.0.conv.weight",
            "aux_head.norm.bias",
            "extra_norms.0.weight",
            "backbone.extra_norms.1.bias",
            "roi_head.head.weight",
        )
        return {name: torch.ones(3) for name in names if self.draw.random() < 0.3}

    def _wrap(self, averaged: bool) -> None:
        """One more dict around; with an averaged copy beside it, or named as one itself."""
        keys = ("model", "state_dict", "module", "net", "state", "teacher")
        self.content = {
            self.draw.choice(keys if averaged else (*keys, "ema", "model_ema")): self.content
        }
        if self.draw.random() < 0.3:
            self.content = {"epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}} | self.content
        if averaged:
            copy = {
                self.draw.choice(("state_dict_ema", "ema")): prefixed("module.", micro(seed=1)[1])
            }
            self.content = copy | self.content if self.draw.random() < 0.5 else self.content | copy
        if self.draw.random() < 0.3:
            self.content["args"] = argparse.Namespace(out=Path("runs"), lr=np.float64(0.1))

    def save(self, folder: Path) -> Path:
        path = folder / f"file{self.draw.choice(SUFFIXES)}"
        how = self.draw.choice(("zip", "legacy", "pickle", "safetensors"))
        if how == "safetensors":
            save_file(_flat(self.content), path)
        elif how == "pickle":
            path.write_bytes(pickle.dumps(self.content, self.draw.randrange(2, 6)))
        else:
            with path.open("wb") as file:
                torch.save(self.content, file, _use_new_zipfile_serialization=how == "zip")
        return path


def _flat(content: dict[Any, Any], name: str = "") -> Params:
    """As people write a nested checkpoint as safetensors: dotted names, tensors alone."""
    found: Params = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{name}{key}.")
        elif isinstance(value, Tensor):
            found[f"{name}{key}"] = value.clone()
    return found


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_file_composed_at_random_loads(seed: int, tmp_path: Path) -> None:
    composed = Composed(seed)
    path = composed.save(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = models.load_official(path, MICRO)
    assert len(caught) <= 1
    assert all(len(str(each.message)) < LONGEST for each in caught)
    assert_equal(found, composed.expected)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_model_with_something_wrong_is_one_short_error(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    _, params = micro()
    body = [name for name in params if not name.startswith(("head.", "norm.", "extra"))]
    body = [name for name in body if not name.endswith("num_batches_tracked")]
    wrong = draw.sample(body, draw.choice((1, 2, 20)))
    for name in wrong:
        value = params.pop(name)
        if draw.random() < 0.5:
            params[name] = value[:-1]
        elif draw.random() < 0.5:
            params[f"stages.0.{name}"] = value
    torch.save({"model": params}, tmp_path / "model.pth")
    with pytest.raises(WeightsError) as error:
        models.load_official(tmp_path / "model.pth", MICRO)
    message = str(error.value)
    assert len(message) < LONGEST
    assert sum(name in message for name in wrong) >= min(len(wrong), 5)
    if len(wrong) == 20:
        assert " more" in message


# What lies beside the parameters


def test_raw_parameters_come_before_averaged_ones_in_any_order() -> None:
    averaged = micro(seed=1)[1]
    for content in (
        {"model": OFFICIAL, "model_ema": averaged},
        {"state_dict_ema": averaged, "state_dict": OFFICIAL},
        {"ema": {"module": averaged}, "model": prefixed("module.", OFFICIAL)},
    ):
        with pytest.warns(UserWarning, match="took the parameters under '.*', left out .*ema") as w:
            assert_equal(models.from_official(content, MICRO), OURS)
        assert len(w) == 1
    assert_equal(models.from_official({"model_ema": OFFICIAL}, MICRO), OURS)


def test_other_modules_are_left_out_and_named_at_most_five_of_them() -> None:
    heads = {f"decode_head.{i}.weight": torch.ones(2) for i in range(30)}
    with pytest.warns(UserWarning, match="left out decode_head") as caught:
        found = models.from_official(prefixed("backbone.", OFFICIAL) | heads, MICRO)
    assert_equal(found, OURS)
    message = str(caught[0].message)
    assert [f"decode_head.{i}.weight" in message for i in range(7)] == [True] * 5 + [False] * 2
    assert "and 25 more" in message


def test_a_name_in_common_does_not_make_another_copy() -> None:
    with pytest.warns(UserWarning, match=r"^left out roi_head\.head\.weight, which are of no Bi"):
        found = models.from_official({"roi_head.head.weight": np.ones(2), **OFFICIAL}, MICRO)
    assert_equal(found, OURS)


def test_the_state_of_training_is_no_news() -> None:
    moments = {0: {"exp_avg": torch.ones(3), "step": torch.tensor(4.0)}}
    content = {"model": OFFICIAL, "optimizer": {"state": moments}, "scaler": {"scale": np.ones(1)}}
    assert_equal(models.from_official(content, MICRO), OURS)  # a warning would be an error


def test_a_head_of_another_kind_is_left_out() -> None:
    params = {name: value for name, value in OFFICIAL.items() if not name.startswith("head.")}
    with pytest.warns(UserWarning, match=r"no head\.weight, head\.bias; left out head\.0\.conv"):
        found = models.from_official(params | {"head.0.conv": torch.ones(2)}, MICRO)
    assert found.keys() == {name for name in OURS if not name.startswith("head.")}


@pytest.mark.parametrize("config", [MICRO, None])
def test_half_a_head_is_an_error(config: BiFormerConfig | None) -> None:
    official = models.to_official(micro(config or models.PUBLISHED["biformer_tiny"])[0], config)
    del official["head.weight"]
    with pytest.raises(WeightsError, match=r"missing head\.weight|left over head\.bias"):
        models.from_official(official, config)


def test_a_norm_is_missed_where_there_is_a_head() -> None:
    params = {name: value for name, value in OFFICIAL.items() if not name.startswith("norm.")}
    with pytest.raises(WeightsError, match=r"missing norm\.weight"):
        models.from_official(params, MICRO)


def test_one_missing_count_of_batches_is_missed() -> None:
    params = dict(OFFICIAL)
    del params["norm.num_batches_tracked"]
    with pytest.raises(WeightsError, match=r"missing norm\.num_batches_tracked \(\)"):
        models.from_official(params, MICRO)


def test_counts_that_numpy_arrays_lack_are_zeros() -> None:
    arrays = {n: v.numpy() for n, v in OFFICIAL.items() if not n.endswith("num_batches_tracked")}
    found = models.from_official(arrays, MICRO)
    counts = [value for name, value in found.items() if name.endswith("num_batches_tracked")]
    assert len(counts) == 4
    assert all(isinstance(value, np.ndarray) and value == 0 for value in counts)
    assert {(value.shape, value.dtype.kind) for value in counts} == {((), "i")}


def test_a_grey_model_of_other_widths_loads_with_its_config() -> None:
    config = replace(MICRO, in_chans=1, embed_dims=(24, 40))
    ours, official = micro(config)
    assert_equal(models.from_official({"state_dict": official}, config), ours)


def test_dicts_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"model": OFFICIAL}
    content["again"] = content
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep, deep]
    content["deep"] = deep
    assert_equal(models.from_official(content, MICRO), OURS)


def test_other_weights_are_one_short_error(tmp_path: Path) -> None:
    torch.save({f"layer{i}.conv.weight": torch.ones(2) for i in range(300)}, tmp_path / "a")
    with pytest.raises(WeightsError, match=r"found none of them in 300 arrays: layer0\..* 295 mo"):
        models.load_official(tmp_path / "a")


def test_a_checkpoint_of_a_run_is_named_as_one(tmp_path: Path) -> None:
    save_file(prefixed("model.", OURS) | {"optimizer.0.exp_avg": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(WeightsError, match=r"got bilevel's own, such as model\.stages.*`bilevel t"):
        models.load_official(tmp_path / "c", MICRO)


# Objects of any class beside the weights, which are not looked up


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
    message = r"a\.pth: expected.*missing norm\.weight.*\(not read: numpy.*, pathlib\.\w+"
    with pytest.raises(WeightsError, match=message):
        models.load_official(tmp_path / "a.pth", MICRO)


# What is no checkpoint


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "safetensors"])
def test_a_file_cut_anywhere_is_said_to_be(tmp_path: Path, form: str) -> None:
    path = tmp_path / "cut.pth"
    if form == "safetensors":
        save_file(OFFICIAL, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"model": OFFICIAL}))
    else:
        torch.save({"model": OFFICIAL}, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    draw = random.Random(0)
    for cut in [16, len(whole) - 1, *(draw.randrange(16, len(whole)) for _ in range(TRIALS))]:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"expected a .*cut\.pth is (a )?truncated") as error:
            models.load_official(path, MICRO)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < LONGEST


def test_a_damaged_file_is_an_error_or_loads(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    draw = random.Random(0)
    for legacy in (False, True):
        torch.save({"model": OFFICIAL}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for _ in range(TRIALS):
            data = bytearray(whole)
            for _ in range(3):
                data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
            path.write_bytes(data)
            with warnings.catch_warnings(), suppress(InputError, WeightsError):
                warnings.simplefilter("ignore")  # a name that is damaged is a stranger's
                models.load_official(path, MICRO)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "no weights")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "file.py")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("\n<!DOCTYPE html><html></html>"), "is a page of HTML"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda p: p.write_text("no weights here"), "no file of torch.save or safet.*b'no weights"),
        (lambda p: p.write_bytes(gzip.compress(b"a")), "is a gzip archive: unpack it"),
        (tarred, "is a tar archive: unpack it"),
        (zipped, "zip archive, but not one of torch.save"),
        (lambda p: torch.save({"epoch": 3}, p), "holds a dict$"),
        (lambda p: torch.save([1, 2], p), "holds a list$"),
        (lambda p: torch.save(argparse.Namespace(a=1), p), r"holds a argparse\.Namespace, which"),
        (lambda p: torch.save({"a": Path("b")}, p), r"holds a dict with pathlib\.\w+, not looked"),
        (lambda p: torch.save({"model": np.ones(3)}, p), r"with numpy\.\S*_reconstruct, not look"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_checkpoint_has_its_own_sentence(
    tmp_path: Path, write: Callable[[Path], Any], message: str, name: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"expected a checkpoint.*{name} .*{message}") as error:
        models.load_official(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint file, found none at"):
        models.load_official(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="expected a checkpoint file, found none at"):
        models.load_official(tmp_path)
