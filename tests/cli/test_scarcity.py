"""A full disk, no memory, no shared memory or too many open files: at any moment, a command ends in
one line, and what it has written is whole."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Listener
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from bilevel.bench import runner
from bilevel.train import checkpoint, start, table
from bilevel.train.config import TrainConfig

if sys.platform != "linux":
    pytest.skip("limits of processes are others here", allow_module_level=True)

from tests.cli.scarcity import descriptors_up_to, ended, file_sizes_up_to, memory_for

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))
MOMENTS = max(3, TRIALS // 10)
"""Of each kind."""
FILES = (
    *("config.json", "data.json", "metrics.csv", "checkpoints"),
    *("curves.png", "predictions.png", "report.html", "tensorboard"),
)
CLONE_NEWNS = 0x20000


def assert_one_line(code: int | str, stderr: str) -> None:
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert re.match(r"bilevel: .", stderr)


def assert_whole(folder: Path) -> None:
    """Every file can be read to its end, and none has the name of one half-written."""
    for path in folder.rglob("*") if folder.exists() else ():
        assert not path.name.startswith(".")
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".csv":
                assert table.read(path, 1)
            case ".png":
                with Image.open(path) as image:
                    image.load()
            case ".safetensors":
                table.read(folder / "metrics.csv", checkpoint.read(path, "cpu").position.epoch)
            case ".html":
                assert path.read_text().rstrip().endswith("</html>")
            case "" if path.is_dir():
                pass
            case _ if path.name.startswith("events.out.tfevents."):
                pass  # it grows; those who read it take what is whole
            case _:
                pytest.fail(f"nobody knows {path}")


def assert_ended_well(code: int | str, stderr: str, folder: Path) -> None:
    """In an error and with whole files, or with all of them."""
    assert_whole(folder)
    if code == 0:
        assert stderr == ""
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    else:
        assert_one_line(code, stderr)


@pytest.fixture(scope="module")
def begun(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after the first of two epochs."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    config = TrainConfig(
        str(stripes), "biformer_micro", image_size=32, epochs=1, batch_size=4, workers=0, out=folder
    )
    start.train(replace(config, warmup_epochs=0), Console(quiet=True))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "epochs": 2}))
    return folder


def training(stripes: Path, out: Path, workers: int = 0) -> list[str]:
    options = ("--model", "biformer_micro", "--image-size", "32", "--epochs", "1")
    more = ("--batch-size", "4", "--workers", str(workers), "--out", str(out))
    return ["train", str(stripes), *options, *more]


def largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*.*"))


def a_size(rng: random.Random, most: int) -> int:
    """Small files, and the first bytes of large ones, are drawn as often as their ends."""
    return int(most ** rng.random())


@pytest.mark.usefixtures("begun")  # what is imported once and loaded once is there
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disk_that_fills_while_a_run_trains(
    moment: int, stripes: Path, begun: Path, tmp_path: Path
) -> None:
    size = a_size(random.Random(moment), 2 * largest(begun))
    limit = partial(file_sizes_up_to, size)
    run = tmp_path / "run"
    assert_ended_well(*ended(training(stripes, run), Path(os.devnull), limit), run)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disk_that_fills_while_a_run_goes_on(moment: int, begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    size = a_size(random.Random(moment), 2 * largest(begun))
    limit = partial(file_sizes_up_to, size)
    assert_ended_well(*ended(["resume", str(run)], Path(os.devnull), limit), run)
    assert len(list(run.iterdir())) == len(FILES)  # none was lost


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disk_that_fills_with_what_is_printed(
    moment: int, begun: Path, stripes: Path, tmp_path: Path
) -> None:
    rng = random.Random(moment)
    images = map(str, sorted(stripes.rglob("*.png")))
    commands = (["predict", str(begun), *images], ["eval", str(begun)], ["backends"], ["--help"])
    out, args = tmp_path / "out", rng.choice(commands)
    ended(args, out, lambda: None)
    whole = out.read_text()
    code, stderr = ended(args, out, partial(file_sizes_up_to, rng.randrange(len(whole))))
    assert_one_line(code, stderr)
    assert whole.startswith(out.read_text())


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disk_that_fills_with_what_is_measured(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: lambda: {"left_out": {"x": "y" * 200}} for name in map(str, range(8))}
    monkeypatch.setattr(runner, "SUBJECTS", {"op": lambda device, rounds: rows})
    limit = partial(file_sizes_up_to, a_size(random.Random(moment), 4000))
    folder = tmp_path / "results"
    code, stderr = ended(["bench", "op", "--out", str(folder)], Path(os.devnull), limit)
    assert_whole(folder)
    if code:
        assert_one_line(code, stderr)


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_memory_that_ends_while_a_run_trains(moment: int, stripes: Path, tmp_path: Path) -> None:
    more = int(2 ** random.Random(moment).uniform(14, 28))
    run = tmp_path / "run"
    done = ended(training(stripes, run), Path(os.devnull), partial(memory_for, more))
    assert_ended_well(*done, run)


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_descriptors_that_end_while_a_run_trains(
    moment: int, stripes: Path, tmp_path: Path
) -> None:
    """Processes hand over images by pipes, sockets and files."""
    opened = len(os.listdir("/proc/self/fd"))
    limit = partial(descriptors_up_to, opened + random.Random(moment).randrange(20))
    run = tmp_path / "run"
    assert_ended_well(*ended(training(stripes, run, 1), Path(os.devnull), limit), run)


def shared_memory_of(kilobytes: int) -> None:
    """To the process, /dev/shm is as large."""
    size = ("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", "/dev/shm")
    if not ctypes.CDLL(None).unshare(CLONE_NEWNS):
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(size, check=True)


def mounts(make: Callable[[int], None]) -> bool:
    """Whether this user may mount."""
    process = os.fork()
    if not process:
        try:
            make(1)
            os._exit(os.statvfs("/dev/shm").f_blocks > 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_shared_memory_that_ends_while_a_run_trains(
    moment: int, stripes: Path, tmp_path: Path
) -> None:
    """Locks of processes, images and, last, their labels are in it."""
    if not mounts(shared_memory_of):
        pytest.skip("to mount a small /dev/shm takes rights that this user lacks")
    kilobytes = 4 * (23 if moment == 0 else random.Random(moment).randrange(1, 60))
    run = tmp_path / "run"
    limit = partial(shared_memory_of, kilobytes)
    assert_ended_well(*ended(training(stripes, run, 1), Path(os.devnull), limit), run)


def refuse_connections() -> None:
    """Over which processes ask for the memory of what they were sent."""

    def refused(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    Listener.accept = refused  # type: ignore[method-assign, assignment]


@pytest.mark.usefixtures("begun")
def test_a_process_that_cannot_hand_over_what_it_read_ends(stripes: Path, tmp_path: Path) -> None:
    """A thread of its own does that: nobody would hear of its error, and wait forever."""
    done = ended(training(stripes, tmp_path / "run", 1), Path(os.devnull), refuse_connections)
    assert_one_line(*done)
