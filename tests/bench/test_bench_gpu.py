"""``bilevel bench gpu``, on a CPU: all but the clock and the graphs of CUDA is the same there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import bilevel
from bilevel.bench import contest, flex, floors, gpu, measure, report
from bilevel.bench.contestants import attentions, deterministic, operators, steps
from bilevel.bench.op import Shape, inputs
from bilevel.cli import main
from bilevel.cli.console import CONSOLE

H200 = floors.Gpu("NVIDIA H200", (9, 0), 132, 1_830_000_000, 4_800_000_000_000, 50 * 2**20)
"""With the rates that its data sheet has."""

SMALL = Shape(2, 16, 4, 3, 2, head_dim=16)


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is computed as it is, FlexAttention as its mask means it."""
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    monkeypatch.setattr(flex, "flex_attention", by_mask)


def by_mask(
    q: Tensor, k: Tensor, v: Tensor, block_mask: Any, kernel_options: dict[str, int] | None
) -> Tensor:
    size = block_mask.BLOCK_SIZE[0]
    assert kernel_options is not None
    assert set(kernel_options.values()) == {size}
    blocks = block_mask.to_dense().bool()
    tokens = blocks.repeat_interleave(size, -1).repeat_interleave(size, -2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=tokens)


def results(contestant: Any, training: bool) -> Sequence[Tensor]:
    torch.manual_seed(0)
    (step,) = steps(contestant, inputs(SMALL, "cpu"), training=training)
    return step()


def test_contestants_compute_the_operator() -> None:
    q = torch.empty(1, 1, 1, 1, 16)
    found = operators(SMALL.topk, SMALL.regions, q)
    others = {"gather", "gather compiled", "gather deterministic", "flex"}
    assert found.keys() >= {"bilevel", "triton"} | others
    assert "torch" not in found  # it is bilevel's choice on a CPU
    want = results(found["bilevel"], training=True)
    assert len(want) == 4
    for name in others:
        got = results(found[name], training=True)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=name)


def test_contestants_compute_attention() -> None:
    q = torch.empty(1, 1, 1, 1, 16)
    found = attentions(SMALL.topk, SMALL.regions, q)
    (want,) = results(found["bilevel"], training=False)
    (got,) = results(found["flex"], training=False)
    grid = SMALL.grid
    merged = got.transpose(1, 2).reshape(2, grid.num_regions, grid.region_tokens, 2, 16)
    torch.testing.assert_close(bilevel.merge(merged, grid), want, rtol=1e-4, atol=1e-5)
    everywhere = attentions(grid.num_regions, SMALL.regions, q)
    (full,) = results(everywhere["flash"], training=False)
    (want,) = results(everywhere["bilevel"], training=False)
    torch.testing.assert_close(full, want, rtol=1e-4, atol=1e-5)


def test_deterministic_mode_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    def failing() -> None:
        with deterministic():
            within.append(state())
            raise ZeroDivisionError

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before, within = state(), []
    with pytest.raises(ZeroDivisionError):
        failing()
    assert within == [(True, False, False, ":4096:8")]
    assert state() == before


@pytest.mark.parametrize(
    ("name", "forward_us", "backward_us"),
    [
        ("224, stage 1", 42.8, 86),
        ("224, stage 2", 21.4, 43),
        ("224, stage 3", 10.7, 21),
        ("512, stage 1", 34.7, 69),
        ("1024, stage 1", 17, 35),
        ("1024, stage 2", 8.7, 17),
        ("1024, stage 3", 4.3, 8.7),
        ("1024, four routes", 34.7, 69),
    ],
)
def test_floors_of_an_h200(name: str, forward_us: float, backward_us: float) -> None:
    found = floors.floors(H200, gpu.work(gpu.SHAPES[name]))
    assert found["forward"] * 1e3 == pytest.approx(forward_us, rel=0.03)
    both = forward_us + backward_us
    assert found["forward_backward"] * 1e3 == pytest.approx(both, rel=0.03)


def test_the_data_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("triton.runtime", reason="triton is not installed")
    rates = {"sm_clock_rate": 1_980_000, "mem_clock_rate": 3_201_000, "mem_bus_width": 6144}
    utils = SimpleNamespace(get_device_properties=lambda index: rates)
    active = SimpleNamespace(active=SimpleNamespace(utils=utils))
    monkeypatch.setattr(runtime, "driver", active)
    of_torch = SimpleNamespace(
        name="GPU", major=9, minor=0, multi_processor_count=132, L2_cache_size=2**20
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: of_torch)
    found = floors.this_gpu()
    assert found == ("GPU", (9, 0), 132, 1_980_000_000, 4_916_736_000_000, 2**20)


def test_reached_rates() -> None:
    found = floors.reached("cpu", elements=64, size=4)
    assert found.keys() == {"copied_bytes_per_s", "bfloat16_flops_per_s"}
    assert min(found.values()) > 0


class Cuda:
    """Stands in for CUDA: events that tell the work they are apart, graphs that call again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.captured, self.replayed = 0.0, 0, 0
        self.peak = 0
        stand_ins = {
            "Event": partial(Event, self),
            "Stream": Stream,
            "current_stream": Stream,
            "stream": nullcontext,
            "CUDAGraph": partial(Graph, self),
            "graph": self.capturing,
            "graph_pool_handle": lambda: "pool",
            "synchronize": lambda: None,
            "memory_allocated": lambda: 100,
            "reset_peak_memory_stats": lambda: None,
            "max_memory_allocated": lambda: self.peak,
        }
        for name, value in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def capturing(self, graph: Graph, pool: str) -> Iterator[None]:
        assert pool == "pool"
        self.captured += 1
        yield


class Event:
    def __init__(self, cuda: Cuda, enable_timing: bool) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.cuda.clock += 1.0
        self.at = self.cuda.clock

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Stream:
    def wait_stream(self, stream: Stream) -> None:
        pass


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def replay(self) -> None:
        self.cuda.replayed += 1
        self.cuda.clock += 6.0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_turns_rotate_and_are_replayed(cuda: Cuda) -> None:
    calls: list[int] = []

    def step(number: int) -> tuple[Tensor, ...]:
        calls.append(number)
        cuda.clock += 4.0
        cuda.peak = 164
        return (torch.empty(8),)

    found = contest.contest(
        {"one": lambda: [partial(step, i) for i in range(9)]}, 3, "cuda", graphs=True
    )
    # A call to warm up, one for its memory, one for its time; 4 in 20 ms aside, and captured.
    assert calls == [0, 0, 0, *range(4), *range(4)]
    assert (cuda.captured, cuda.replayed) == (1, 4)
    assert found == ({"one": 1.75}, {"one": 32}, {})


def test_the_row_of_a_gpu(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[int] = []

    def on_cpu(shape: Shape, device: str, number: int) -> Any:
        sets.append(number)
        return inputs(shape, "cpu")

    monkeypatch.setattr(gpu, "inputs", on_cpu)
    monkeypatch.setattr(gpu, "this_gpu", lambda: H200)
    row = gpu.operator(SMALL, 1, "cuda")
    assert sets == [1 + -(-4 * 50 * 2**20 // (3 * 2 * 256 * 2 * 16 * 4))]
    assert row["attention_forward_ms"]["bilevel"] == 7.0
    assert row["ratios"]["attention_forward over floor"] == 7.0 / row["floor_ms"]["forward"]
    assert row["called_forward_backward_ms"].keys() >= {"gather deterministic", "flex"}
    assert row["forward_backward_extra_bytes"].keys() >= {"bilevel", "gather"}


def plan(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], dict[str, Any]]]:
    monkeypatch.setattr(gpu, "SHAPES", {"first": SMALL, "second": Shape(1, (8, 12), 4, 1, 1, 8)})
    return {name: row for name, row in gpu.plan(1, "cpu").items() if name in gpu.SHAPES}


HEADER = {
    "command": "bilevel bench gpu",
    "date": "2026-11-30",
    "commit": "c0ffee",
    "torch": "2.11.0",
    "gpu": H200._asdict(),
}


def test_rows_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "gpu.json"
    report.run_plan(plan(monkeypatch), path, HEADER, CONSOLE)
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in HEADER} == json.loads(json.dumps(HEADER))
    first, second = saved["rows"]
    assert (first["name"], second["name"], second["size"]) == ("first", "second", [8, 12])
    for group in ("forward_ms", "forward_backward_ms"):
        assert first[group].keys() >= {"bilevel", "gather", "gather deterministic", "flex"}
        assert first[f"attention_{group}"].keys() >= {"bilevel", "flash", "flex"}
    assert "called_forward_ms" not in first
    ours, theirs = (first["forward_ms"][name] for name in ("bilevel", "gather"))
    assert first["ratios"]["forward to gather"] == theirs / ours
    assert first["left_out"]["triton, forward"].startswith("BackendRefused: backend 'triton'")
    assert "got 6 tokens at most" in second["left_out"]["flex, forward"]


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    def row(name: str) -> dict[str, Any]:
        measured.append(name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {"left_out": {}}

    measured: list[str] = []
    rows = {name: partial(row, name) for name in ("first", "second", "third")}
    path = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        report.run_plan(rows, path, HEADER, CONSOLE)
    assert [each["name"] for each in json.loads(path.read_text())["rows"]] == ["first"]
    report.run_plan(rows, path, {**HEADER, "date": "2026-12-01"}, CONSOLE)
    assert measured == ["first", "second", "second", "third"]
    assert [each["name"] for each in json.loads(path.read_text())["rows"]] == list(rows)
    assert len(measure.kept(path, HEADER)) == 3
    changes: tuple[dict[str, Any], ...] = (
        {"commit": "another"},
        {"torch": "2.15.0"},
        {"gpu": {"name": "another"}},
    )
    for change in changes:
        assert measure.kept(path, {**HEADER, **change}) == []
    for commit in (None, "c0ffee-dirty"):  # another time it may be other code
        header = {**HEADER, "commit": commit}
        measure.save(path, header, [{"name": "first"}])
        assert measure.kept(path, header) == []


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    run = partial(subprocess.run, check=True, capture_output=True, text=True, cwd=tmp_path)
    package = tmp_path / "package"
    package.mkdir()
    code = package / "__init__.py"
    code.touch()
    run([git, "init"])
    assert measure.checkout(package) is None  # git does not know the package
    run([git, "add", "."])
    run([git, "-c", "user.name=a", "-c", "user.email=b", "commit", "-m", "c"])
    commit = run([git, "rev-parse", "HEAD"]).stdout.strip()
    assert measure.checkout(package) == commit
    (tmp_path / "results.json").touch()
    assert measure.checkout(package) == commit
    code.write_text("changed = True\n")
    assert measure.checkout(package) == f"{commit}-dirty"


def test_a_machine_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "gpu"])
    assert "expected a GPU that torch finds, found none" in capsys.readouterr().err


def test_the_file_is_named_for_the_gpu() -> None:
    assert measure.file_for("NVIDIA H200") == "nvidia-h200.json"
    assert measure.file_for("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb.json"
