"""How the kernel comes to be: which compiler, where it is kept, what may go wrong on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bilevel
from bilevel import registry
from bilevel_cpu import compiler, library
from tests.frameworks import load_or_skip

CALL = """
import numpy as np, bilevel
x = np.ones((1, 4, 4, 1, 2), "float32")
print(bilevel.bra(x, x, x, regions=2, topk=1, backend="cpu-numpy").sum())
"""


@pytest.fixture(autouse=True)
def there_is_a_compiler() -> None:
    load_or_skip("cpu-numpy")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of a process that knows nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    forget()
    yield tmp_path / "cache" / "bilevel"
    forget()


CACHED = (library._found, compiler.compiler, compiler._version, compiler._cpu)


def forget() -> None:
    for cached in CACHED:
        cached.cache_clear()
    registry.forget()


def program(folder: Path, text: str, name: str = "c++") -> Path:
    """A program in place of the compiler."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.so"))


def test_it_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.why_not("float32") is None
    (first,) = kept(cache)
    before = first.stat().st_mtime_ns
    library._found.cache_clear()
    monkeypatch.setattr(compiler, "build", lambda *_: pytest.fail("it is there"))
    assert library.why_not("float32") is None
    assert kept(cache) == [first]
    assert first.stat().st_mtime_ns == before
    assert not first.parent.stat().st_mode & 0o077


def test_a_damaged_file_is_compiled_again(cache: Path) -> None:
    library.why_not("float32")
    (path,) = kept(cache)
    path.unlink()
    path.write_bytes(b"no library")
    library._found.cache_clear()
    assert library.why_not("float32") is None


@pytest.mark.parametrize("what", ["text", "compiler", "CPU", "dtype"])
def test_what_it_depends_on_is_in_its_name(
    what: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that another CPU may read the same cache."""
    before, dtype = compiler.key("float"), "float"
    if what == "text":
        (tmp_path / "kernels").mkdir()
        for path in compiler.KERNELS.iterdir():
            (tmp_path / "kernels" / path.name).write_text(path.read_text() + "// more\n")
        monkeypatch.setattr(compiler, "KERNELS", tmp_path / "kernels")
    elif what == "compiler":
        monkeypatch.setattr(compiler, "_version", lambda: ("g++", "another version"))
    elif what == "CPU":
        monkeypatch.setattr(compiler, "_cpu", lambda: "flags: fewer")
    else:
        dtype = "double"
    assert compiler.key(dtype) != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'a.cpp:1: error: no such thing' >&2; exit 1", "error: no such thing"),
        ("kill -9 $$", "it ended with status -9"),
        ("exit 3", "it ended with status 3"),
        ("true", "no folder can keep"),  # it writes no file
    ],
    ids=["error", "killed", "no reason", "no file"],
)
def test_a_compiler_that_fails_leaves_torch_and_numpy(
    text: str, said: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path / "bin", text)))
    forget()
    x = np.ones((1, 4, 4, 1, 2), "float32")
    assert registry.choose(bilevel.array_checks.float_problem(x=x)).name == "numpy"
    assert said in str(library.why_not("float32"))
    with pytest.raises(bilevel.BackendRefused, match="not compiled here"):
        bilevel.bra(x, x, x, regions=2, topk=1, backend="cpu-numpy")
    assert not kept(cache)


def test_a_compiler_that_hangs_is_left(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = 'if [ "$2" = "" ]; then exit 0; fi; exec sleep 60'
    monkeypatch.setenv("CXX", str(program(tmp_path / "bin", hangs)))
    monkeypatch.setattr(compiler, "TIMEOUT", 0.2)
    forget()
    assert "did not end" in str(library.why_not("float32"))


def test_without_a_compiler_it_says_so(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    forget()
    assert "no C++ compiler" in str(library.why_not("float32"))
    said = "none of $CXX, c++, g++, clang++ is there to run"
    why_not = {status.name: status.why_not for status in bilevel.backends()}
    assert why_not["cpu"] == why_not["cpu-numpy"] == said
    assert why_not["numpy"] is None


def test_options_of_an_older_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that knows no -march=native, as on some other CPUs."""
    real = compiler.compiler()[0]
    picky = f'case "$*" in *=native*) exit 1;; esac; exec {real} "$@"'
    monkeypatch.setenv("CXX", str(program(tmp_path / "bin", picky)))
    forget()
    assert library.why_not("float32") is None


def test_the_environment_variable_may_have_options(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", f"{compiler.compiler()[0]} -O1")
    forget()
    assert compiler.compiler()[1:] == ("-O1",)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such modes there")
@pytest.mark.parametrize("fault", ["a file in its place", "others may write to it"])
def test_a_cache_that_is_of_no_use(fault: str, cache: Path, tmp_path: Path) -> None:
    """The kernel goes to the next folder."""
    if fault == "a file in its place":
        cache.parent.write_text("")
    else:
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    assert library.why_not("float32") is None
    assert not kept(cache)
    assert kept(tmp_path / "home" / ".cache" / "bilevel")


def test_a_full_cache_that_is_read_only_is_read(cache: Path) -> None:
    assert library.why_not("float32") is None
    cache.chmod(0o500)
    library._found.cache_clear()
    try:
        assert library.why_not("float32") is None
    finally:
        cache.chmod(0o700)


def test_no_folder_at_all(cache: Path, tmp_path: Path) -> None:
    for name in ("cache", "home", "temporary"):
        (tmp_path / name).write_text("")
    assert "no folder can keep" in str(library.why_not("float32"))


def test_many_processes_at_once(cache: Path, tmp_path: Path) -> None:
    """One compiles, the others wait for it."""
    real = compiler.compiler()[0]
    counting = f'case "$*" in *-shared*) echo >> {tmp_path}/count;; esac; exec {real} "$@"'
    env = {**os.environ, "CXX": str(program(tmp_path / "bin", counting))}
    run = [sys.executable, "-c", CALL]
    processes = [subprocess.Popen(run, env=env, stdout=subprocess.PIPE) for _ in range(4)]
    assert {process.communicate()[0] for process in processes} == {b"32.0\n"}
    assert len((tmp_path / "count").read_text().splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """Those of the parent's OpenMP runtime do not survive a fork; to wait for them would hang."""
    load_or_skip("cpu")
    script = """
import os, torch, bilevel
torch.set_num_threads(2)
x = torch.randn(4, 28, 28, 4, 32)
before = bilevel.bra(x, x, x, backend="cpu")
pid = os.fork()
if pid == 0:
    # NumPy compares: torch would wait for the parent's threads.
    same = bilevel.bra(x, x, x, backend="cpu").numpy() == before.numpy()
    os._exit(0 if same.all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    run = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr
