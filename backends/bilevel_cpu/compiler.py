"""From the kernel's text to a library for this CPU: which compiler, which options, under which name
the result is kept."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from bilevel_cpu import COMPILERS

KERNELS = Path(__file__).parent / "kernels"

OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")

FOR_THIS_CPU = (("-march=native",), ("-mcpu=native",), ())
"""What asks for all instructions that the CPU has; compilers know one or the other, or none."""

TIMEOUT = 300
"""Seconds after which a compiler is taken to hang; it takes about 10."""


class CompilerError(Exception):
    """Why there is no library, in one line."""


@cache
def compiler() -> tuple[str, ...]:
    """The command that compiles C++, without its options.

    Raises CompilerError if there is none.
    """
    for name in COMPILERS:
        words = shlex.split(os.environ.get(name[1:], "")) if name.startswith("$") else [name]
        if words and (path := shutil.which(words[0])):
            return (path, *words[1:])
    raise CompilerError("there is no C++ compiler; install g++ or clang++, or set CXX")


def key(dtype: str) -> str:
    """What the library depends on, in a few letters: text, compiler, options and CPU."""
    files = (path for path in sorted(KERNELS.iterdir()) if path.suffix in (".cpp", ".h"))
    texts = (path.read_text() for path in files)
    facts = (*texts, *_version(), *OPTIONS, _cpu(), dtype)
    return sha256("\0".join(facts).encode()).hexdigest()[:20]


def build(dtype: str, to: Path, options: Sequence[str] = ()) -> None:
    """Write the library for arrays of a dtype, ``"float"``, ``"double"``, ``"Half"``, ``"Brain"``.

    Raises CompilerError if no command succeeds.
    """
    for of_cpu in FOR_THIS_CPU:
        source = str(KERNELS / "attention.cpp")
        command = (*compiler(), *OPTIONS, *of_cpu, *options, f"-DSTORED={dtype}", source)
        problem = _run((*command, "-o", str(to)))
        if problem is None:
            return
    raise CompilerError(f"{compiler()[0]} does not compile it ({problem})")


def _run(command: Sequence[str]) -> str | None:
    """Run a compiler; what went wrong, if anything did."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {TIMEOUT} s"
    except OSError as error:
        return str(error)
    if not done.returncode:
        return None
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    return said[0][:200] if said else f"it ended with status {done.returncode}"


@cache
def _version() -> tuple[str, ...]:
    """The compiler, and what it says of itself."""
    try:
        done = subprocess.run(
            (*compiler(), "--version"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"{compiler()[0]} does not run ({error})") from error
    return (*compiler(), done.stdout.decode(errors="replace"))


@cache
def _cpu() -> str:
    """What the CPU is and which instructions it has, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    wanted = ("model name", "flags", "features", "cpu implementer", "cpu part")
    said = {line for line in lines if line.lower().startswith(wanted)}
    return "\n".join((platform.machine(), *sorted(said)))
