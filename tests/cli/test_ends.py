"""Every end of a command is one line and an exit code, wherever it goes wrong."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from bilevel import InputError, __version__
from bilevel.cli import ends, main

ERRORS: list[tuple[BaseException, str]] = [
    (InputError("two\nlines"), "two lines"),
    (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "make room"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room"),
    (OSError(errno.EFBIG, "File too large"), "make room"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "make room"),
    (SafetensorError("I/O error: File too large (os error 27)"), "make room"),
    (PermissionError(errno.EACCES, "Permission denied", "runs"), "Permission denied: 'runs'"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "reader of the output"),
    (MemoryError(), "out of memory"),
    (MemoryError("Unable to allocate 3 TiB"), "3 TiB"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "2 GiB"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes.\nframe #0"), "9 bytes"),
    (
        RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
        "--workers 0",
    ),
    (
        RuntimeError(
            "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory."
        ),
        "--workers 0",
    ),
    (
        RuntimeError("DataLoader worker (pid 1) exited unexpectedly with exit code 1."),
        "--workers 0",
    ),
    (RuntimeError("could not create a primitive"), "out of memory"),
    (RuntimeError("can't start new thread"), "threads"),
    (
        RuntimeError("Caught OSError in DataLoader worker process 0.\nOriginal\nOSError: at last"),
        "at last",
    ),
    (ModuleNotFoundError("No module named 'x'", name="x"), 'install "bilevel[train]"'),
    (UnicodeEncodeError("ascii", "\u732b", 0, 1, "ordinal not in range"), "UnicodeEncodeError"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (ZeroDivisionError(), "ZeroDivisionError"),
    (KeyError("x\ny"), "KeyError"),
    (SystemExit(7), "ended with 7"),
    (GeneratorExit(), "GeneratorExit"),
]


def ended(error: BaseException, debug: bool, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        ends.run(fail, debug)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("error", "said"), ERRORS, ids=lambda x: type(x).__name__)
def test_any_error_is_one_line(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = ended(error, False, capsys)
    assert code == 2
    assert line.startswith("bilevel: ")
    assert line.count("\n") == 1
    assert said in line
    code, lines = ended(error, True, capsys)
    assert code == 2
    assert "Traceback (most recent call last)" in lines
    assert lines.endswith(line)


def test_what_an_error_came_from_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("cannot save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in ended(error, False, capsys)[1]


def test_an_interrupt_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), False, capsys) == (130, "bilevel: interrupted\n")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_stands_anywhere(place: int, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "/no/such/run"]
    args.insert(place, "--debug")
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_was_built_by_half_is_taken_apart_in_silence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Half:
        def __init__(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __del__(self) -> None:
            raise AttributeError("_shutdown")

    with pytest.raises(SystemExit):
        ends.run(lambda: print(Half()), False)
    assert one_line(capsys.readouterr().err)


COMMAND = [sys.executable, "-m", "bilevel"]


def said(
    *args: str, shell: str = "", command: Sequence[str] = COMMAND
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; ``shell`` comes after it, as in ``| head``."""
    words = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command, *args]
    return subprocess.run(words, capture_output=True, text=True)


def ending(expression: str) -> list[str]:
    """A process that runs an expression as a command, without torch, which takes long to import."""
    script = (
        "from bilevel.cli import ends; from bilevel.cli.console import CONSOLE\n"
        f"ends.run(lambda: {expression}, False)"
    )
    return [sys.executable, "-c", script]


ROWS = ending("CONSOLE.print('a row')")


def one_line(text: str) -> bool:
    return re.fullmatch(r"bilevel: [^\n]+\n", text) is not None


def test_the_version_and_the_module() -> None:
    done = said("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bilevel {__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [ROWS, *([*COMMAND, *args] for args in (["--help"], ["train", "--help"], ["--version"]))],
    ids=["rows", "help", "train help", "version"],
)
@pytest.mark.parametrize("shell", ["| true", "> /dev/full"])
def test_output_that_nobody_takes(command: list[str], shell: str) -> None:
    shell = shell.replace("true", "python -c 'import os; os.close(0)'")
    done = said(shell=shell, command=command)
    if done.returncode:  # a reader may have taken it all just before it went
        assert done.returncode == 2
        assert one_line(done.stderr)
    else:
        assert shell.startswith("|")
        assert done.stderr == ""


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed(shell: str) -> None:
    done = said(shell=shell, command=ROWS)
    assert (done.returncode, done.stderr) == (0, "")
    done = said(shell=shell, command=ending("1 / 0"))
    assert done.returncode == 2
    assert one_line(done.stderr) or "2>" in shell


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "cp437"])
def test_any_console_prints_any_name(encoding: str, tmp_path: Path) -> None:
    name = "\u732b\u00e9\U0001f408\udcff"
    shown = ending(f"(print({name!r}), CONSOLE.print({name!r}))")
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    done = subprocess.run(shown, capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(set(done.stdout.decode(encoding).splitlines())) == 1
    done = subprocess.run(ending(f"open('/no/such/{name[:3]}')"), capture_output=True, env=env)
    assert done.returncode == 2
    assert one_line(done.stderr.decode(encoding))
    for args in (["--help"], ["train", "--model", name[:3]]):
        done = subprocess.run([*COMMAND, *args], capture_output=True, env=env)
        assert b"Traceback" not in done.stderr
        assert done.returncode == (0 if args == ["--help"] else 2)


@pytest.mark.parametrize("after", [0.0, 0.3, 1.0])
def test_ctrl_c(after: float, stripes: Path, tmp_path: Path) -> None:
    """At any moment once the first line is out: reading, stepping, saving."""
    args = ["train", str(stripes), "--model", "biformer_micro", "--image-size", "32"]
    args += ["--epochs", "500", "--workers", "0", "--out", str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *args], stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.readline()
        signal.sigtimedwait([], after)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "bilevel: interrupted\n")
