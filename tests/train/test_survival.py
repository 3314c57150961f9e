"""Runs that are killed, asked to end, starved and fed with rubbish, and go on to the same numbers.

``BILEVEL_KILLS`` says how often a run is killed: `nox -s survival` kills it 20 times.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from bilevel import InputError
from bilevel.cli import ends
from bilevel.errors import Stopped
from bilevel.models.config import MODELS
from bilevel.train import checkpoint, loop, start, step, stopping, table
from bilevel.train.config import TrainConfig
from bilevel.train.loader import Planned
from bilevel.train.run import reopen
from tests.train import processes
from tests.train.processes import CONFIG, STEPS, DieBefore, DieInSave, Several, train_alone

if sys.platform != "linux":
    pytest.skip("signals of processes are others here", allow_module_level=True)

KILLS = int(os.environ.get("BILEVEL_KILLS", "2"))
LONG = KILLS > 2
only_long = pytest.mark.skipif(not LONG, reason="takes minutes: nox -s survival runs it")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in this process too."""
    monkeypatch.setitem(MODELS, "biformer_micro", processes.TINY)


@pytest.fixture(scope="module")
def whole(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "biformer_micro", processes.TINY)
        start.train(config_of(folder, stripes), Console(quiet=True))
    return folder


def config_of(folder: Path, stripes: Path, **values: Any) -> TrainConfig:
    return replace(CONFIG, out=folder, data=str(stripes), **values)


def said_by(function: Any, *args: Any) -> str:
    """What a call prints."""
    said = StringIO()
    function(*args, Console(file=said, width=1000))
    return said.getvalue()


def assert_same(folder: Path, whole: Path) -> None:
    """Weights, moments and averages to the bits, and what was measured but for speed."""
    last = "checkpoints", f"step-{STEPS}.safetensors"
    assert folder.joinpath(*last).read_bytes() == whole.joinpath(*last).read_bytes()
    assert rows_of(folder) == rows_of(whole)
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert all("partial" in path.name for path in hidden)  # what a kill leaves


def assert_near(folder: Path, whole: Path) -> None:
    """Weights and moments to 1e-6, and what was measured too."""
    a, b = (
        load_file(each / "checkpoints" / f"step-{STEPS}.safetensors") for each in (folder, whole)
    )
    assert a.keys() == b.keys()
    off = {name: float((a[name].double() - b[name].double()).abs().max()) for name in a}
    assert max(off.values()) < 1e-6, max(off.items(), key=lambda item: item[1])
    for row, other in zip(rows_of(folder), rows_of(whole), strict=True):
        assert row == pytest.approx(other, abs=1e-5)


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [row | {"img_per_s": 0.0} for row in table.read(folder / "metrics.csv", CONFIG.epochs)]


def wait_for_step(life: Several, folder: Path, number: int) -> None:
    """Wait until a checkpoint of that step, or of a later one, is there."""
    while max(checkpoint.steps(folder / "checkpoints"), default=0) < number:
        assert life.is_alive(), life.ended()
        time.sleep(0.02)


def test_kills_at_any_moment_lose_nothing(whole: Path, stripes: Path, tmp_path: Path) -> None:
    """With and without workers by turns: how many read images makes no difference. Every fourth
    kill is within a save."""
    draw = random.Random(KILLS)
    folder = tmp_path / "run"
    for kill in range(KILLS):
        config = config_of(folder, stripes, workers=kill % 2)
        done = max(checkpoint.steps(folder / "checkpoints"), default=0)
        in_save = kill % 4 == 3 and done < STEPS - 3
        life = Several(config, 1, tmp_path / "log", DieInSave(done + 2) if in_save else None)
        if not in_save:
            wait_for_step(life, folder, min(done + draw.randrange(3), STEPS - 2) if kill else 0)
            time.sleep(draw.random() * 0.1)
            life.kill()
        assert life.ended()[0].code in (-signal.SIGKILL, 0)
    assert train_alone(config_of(folder, stripes), tmp_path / "log").code == 0
    assert_same(folder, whole)


@pytest.mark.parametrize("number", [5, 8] if LONG else [5])
def test_a_kill_within_a_save_leaves_the_one_before(
    number: int, whole: Path, stripes: Path, tmp_path: Path
) -> None:
    """In an epoch, and at the end of one."""
    folder = tmp_path / "run"
    config = config_of(folder, stripes)
    assert train_alone(config, tmp_path / "log", DieInSave(number)).code == -signal.SIGKILL
    assert checkpoint.steps(folder / "checkpoints")[0] == number - 1
    assert list((folder / "checkpoints").glob(".*partial*"))
    said = said_by(start.resume, folder)
    assert f"going on after epoch {(number - 1) // 4} of 4, step {number - 1}" in said
    assert_same(folder, whole)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_truncated_checkpoint_is_passed_over_and_this_is_said(
    whole: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    newest = folder / "checkpoints" / f"step-{STEPS}.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    said = said_by(start.resume, folder)
    assert "passed over a checkpoint that is not whole: expected a checkpoint at" in said
    assert f"step {STEPS - 1}," in said
    assert_same(folder, whole)


def test_a_signal_saves_and_ends_a_run(whole: Path, stripes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = config_of(folder, stripes, save_minutes=1000)
    life = Several(config, 1, tmp_path / "log")
    wait_for_step(life, folder, 4)
    life.kill(number=signal.SIGTERM)
    (ended,) = life.ended()
    assert ended.code == 128 + signal.SIGTERM, ended.said
    number = checkpoint.steps(folder / "checkpoints")[0]
    assert f"asked to end by signal 15: saved after step {number}; go on by: bilevel resume" in (
        ended.said
    )
    if number < STEPS:
        assert f"step {number}," in said_by(start.resume, folder)
        shutil.copy(whole / "config.json", folder)
    rows = rows_of(folder)
    assert rows == rows_of(whole)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_signals_are_noted_and_their_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with stopping.asked() as asked:
        assert asked() == 0
        signal.raise_signal(number)
        assert asked() == number
    assert signal.getsignal(number) == before
    with pytest.raises(SystemExit) as end:
        ends.run(lambda: (_ for _ in ()).throw(Stopped("saved", number)), debug=False)
    assert end.value.code == 128 + number


def test_auto_goes_on_only_where_a_run_has_begun(
    whole: Path, stripes: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "run", stripes, epochs=1)
    quiet = Console(quiet=True)
    start.train(config, quiet, auto=True)
    more = replace(config, epochs=2)
    with pytest.raises(InputError, match="cannot create the folder of the run"):
        start.train(more, quiet)
    start.train(more, quiet, auto=True)
    assert reopen(tmp_path / "run").config.epochs == 2
    with pytest.raises(InputError, match=r"but lr was 0\.05 and is 0\.5"):
        start.train(replace(more, lr=0.5), quiet, auto=True)
    with pytest.raises(InputError, match="expected --out, the folder of the run"):
        start.train(replace(more, out=None), quiet, auto=True)


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(
    whole: Path, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    config = config_of(tmp_path / "run", stripes)
    monkeypatch.setattr(loop, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        start.train(config, Console(quiet=True))
    monkeypatch.setattr(loop, "step", step.step)
    assert "going on after epoch 0 of 4, step 0" in said_by(start.resume, tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_full_disk_leaves_what_was_saved(
    whole: Path, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save: Any = vars(checkpoint)["save_file"]

    def fills(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata)
        if "step-6" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", fills)
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*step-6.*No space left"):
        start.train(config_of(tmp_path / "run", stripes), Console(quiet=True))
    monkeypatch.undo()
    monkeypatch.setitem(MODELS, "biformer_micro", processes.TINY)
    start.resume(tmp_path / "run", Console(quiet=True))
    assert_same(tmp_path / "run", whole)


def test_the_last_three_checkpoints_and_the_best_are_kept(whole: Path) -> None:
    rows = rows_of(whole)
    scores = [row["test_accuracy"] for row in rows]
    best = 4 * (scores.index(max(scores)) + 1)
    kept = checkpoint.steps(whole / "checkpoints")
    assert kept == sorted({STEPS, STEPS - 1, STEPS - 2, best}, reverse=True)


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Let images of some steps be not finite."""
    whole_steps = Planned.steps

    def poisoned(planned: Planned, begin: int, end: int) -> Any:
        for number, batch in enumerate(whole_steps(planned, begin, end), begin):
            bad = batch._replace(images=batch.images * float("nan"))
            yield bad if number in steps else batch

    monkeypatch.setattr(Planned, "steps", poisoned)


def test_a_batch_that_is_not_finite_changes_nothing_and_is_kept(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {5, 6})
    folder = tmp_path / "run"
    said = said_by(start.train, config_of(folder, stripes))
    assert said.count("not finite, skipped: step ") == 2
    assert "skipped: step 5: loss nan, accuracy" in said
    kept = {path.name for path in (folder / "not-finite").iterdir()}
    assert kept == {"step-5.safetensors", "step-6.safetensors"}
    batch = load_file(folder / "not-finite" / "step-5.safetensors")
    assert (batch["images"].shape, batch["images"].dtype) == ((4, 3, 32, 32), torch.uint8)
    tensors = load_file(folder / "checkpoints" / f"step-{STEPS}.safetensors")
    assert all(x.isfinite().all() for x in tensors.values() if x.is_floating_point())
    rows = rows_of(folder)
    assert all(value == value for row in rows for value in row.values())
    assert rows[1]["train_accuracy"] in (0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1)


def test_ten_in_a_row_end_a_run_with_what_was_seen(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(3, STEPS)))
    with pytest.raises(InputError) as error:
        start.train(config_of(tmp_path / "run", stripes), Console(quiet=True))
    assert (
        "10 steps in a row were not finite and changed nothing, the last was step 12: loss nan"
        in (str(error.value))
    )
    assert str(tmp_path / "run" / "not-finite") in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_replaced_and_too_many_end_a_run(
    workers: int, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stripes, tmp_path / "images")
    for name in ("0.png", "1.png", "2.png", "3.png"):
        (tmp_path / "images" / "down" / name).write_bytes(b"not an image")
    config = config_of(tmp_path / "run", tmp_path / "images", workers=workers, epochs=1)
    with pytest.raises(InputError) as error:
        start.train(config, Console(quiet=True))
    assert "of 16 images cannot be read: cannot read the image" in str(error.value)
    assert "\n" not in str(error.value)
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert listed[0].startswith("cannot read the image")
    monkeypatch.setattr("bilevel.train.loader.MOST_UNREADABLE", 1.0)
    said = said_by(start.train, replace(config, out=tmp_path / "other"))
    assert "another image in its place: cannot read the image" in said


def test_processes_train_as_one_does_and_one_goes_on_alone(
    whole: Path, stripes: Path, tmp_path: Path
) -> None:
    """Two share a run until they are asked to end; then one does the rest."""
    folder = tmp_path / "run"
    both = Several(config_of(folder, stripes), 2, tmp_path / "log")
    wait_for_step(both, folder, 6)
    both.kill(rank=1, number=signal.SIGTERM)
    ended = both.ended()
    assert [each.code for each in ended] == [128 + signal.SIGTERM] * 2, ended
    start.resume(folder, Console(quiet=True))
    assert_near(folder, whole)


@only_long
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("shard", [False, True])
def test_processes_end_where_one_does(
    ranks: int, shard: bool, stripes: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"batch_size": 8, "epochs": 8, "shard": shard}
    alone, together = (config_of(tmp_path / name, stripes, **values) for name in ("1", "n"))
    start.train(replace(alone, shard=False), Console(quiet=True))
    ended = Several(together, ranks, tmp_path / "log").ended()
    assert [each.code for each in ended] == [0] * ranks, ended
    a, b = (load_file(tmp_path / x / "checkpoints" / "step-16.safetensors") for x in ("1", "n"))
    assert max(float((a[name].double() - b[name].double()).abs().max()) for name in a) < 1e-6


@only_long
def test_processes_that_are_killed_go_on(whole: Path, stripes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in (2, 9):
        both = Several(config_of(folder, stripes), 2, tmp_path / "log")
        wait_for_step(both, folder, number)
        for rank in range(2):
            both.kill(rank)
        both.ended()
    assert [e.code for e in Several(config_of(folder, stripes), 2, tmp_path / "log").ended()] == [
        0,
        0,
    ]
    assert_near(folder, whole)


@pytest.mark.parametrize("error", ["", "a mistake"] if LONG else [""])
def test_a_process_that_ends_ends_the_run_with_its_error(
    error: str, stripes: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "run", stripes)
    first, second = Several(config, 2, tmp_path / "log", DieBefore(5, 1, error)).ended()
    assert first.code == ends.FAILED
    assert "bilevel: another process of the run ended early" in first.said.splitlines()[-1]
    if error:
        assert second.code == ends.FAILED
        assert "bilevel: process 1: unexpected ValueError: a mistake" in second.said
    else:
        assert second.code == -signal.SIGKILL
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[0] == 5


def test_batches_that_processes_cannot_share_are_one_error(stripes: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", stripes, batch_size=6)
    first, second = Several(config, 2, tmp_path / "log").ended()
    assert (first.code, second.code) == (ends.FAILED, ends.FAILED)
    assert "bilevel: expected batches that 2 processes can share, a multiple of 4" in first.said
    assert second.said == ""


@only_long
def test_torchrun_starts_a_run_again_that_lost_a_process(
    whole: Path, stripes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1")
    port = ("--master-port", str(processes._free_port()))
    args = (processes.__file__, str(folder), str(stripes))
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        (sys.executable, *run, *port, *args), env=env, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 1 of 4, step 6" in done.stdout
    assert_near(folder, whole)


@only_long
def test_torchrun_trains_by_the_command_line(stripes: Path, tmp_path: Path) -> None:
    options = ("--model", "biformer_micro", "--image-size", "32", "--epochs", "1", "--workers", "0")
    more = ("--batch-size", "4", "--out", str(tmp_path / "run"))
    run = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    port = ("--master-port", str(processes._free_port()))
    args = ("-m", "bilevel", "train", str(stripes), *options, *more)
    done = subprocess.run(
        (sys.executable, *run, *port, *args), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    assert done.stdout.count("epoch   1") == 1
