"""Compile kernels for the CPU with g++, and keep what is compiled."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("fibers.h", "blocks.h", "blocks.cpp", "gpu_on_cpu.h")

# What kernels do with pointers, CUDA allows; each library has symbols of its own.
# Tests wait longer for the compiler than for kernels: hence little is optimized.
OPTIONS = (
    *("-std=c++17", "-O1", "-w", "-fPIC", "-fno-strict-aliasing"),
    *("-fvisibility=hidden", "-fno-gnu-unique"),
)
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

ENTRIES = """
#define ENTRY extern "C" __attribute__((visibility("default")))
ENTRY const gpu::Parameter* parameters() {{ return gpu::Kernel<(&{name})>::parameters; }}
ENTRY const char* launch(const gpu::Launch* how, void** arguments) {{
    return gpu::Kernel<(&{name})>::launch(*how, arguments);
}}
"""


class CompileError(RuntimeError):
    """A kernel that g++ does not compile, with what g++ says."""


def sanitizes() -> bool:
    """Whether kernels are compiled with the sanitizers of addresses and of undefined behaviour."""
    return os.environ.get("BILEVEL_SANITIZE") == "1"


def missing() -> str | None:
    """Why no kernel can be compiled."""
    if sys.platform != "linux":
        return "the CPU emulates CUDA on Linux only, where NVIDIA's headers are"
    return None if shutil.which("g++") else "g++ compiles kernels for the CPU: install it"


def built(code: str, name: str) -> Path:
    """The library of the kernel that a name expression means in a text."""
    text = '#include "gpu_on_cpu.h"\n#line 1 "kernel.cu"\n' + code + ENTRIES.format(name=name)

    def compile_and_link(library: Path) -> None:
        command = [*_command(f"-I{_header().parent}"), "-shared", "-o", str(library)]
        _run([*command, "-x", "c++", "-", "-x", "none", str(_blocks())], text, name)

    return _kept(text, ".so", compile_and_link)


def _blocks() -> Path:
    """What all kernels are linked with."""
    return _common("blocks.cpp", ".o", "-c")


def _header() -> Path:
    """What all kernels include, compiled: g++ finds it by its name."""
    return _common("gpu_on_cpu.h", "/gpu_on_cpu.h.gch", "-x", "c++-header")


def _common(source: str, suffix: str, *options: str) -> Path:
    def compile_only(file: Path) -> None:
        _run([*_command(), *options, str(HERE / source), "-o", str(file)], "", source)

    return _kept(source, suffix, compile_only)


def _command(*options: str) -> tuple[str, ...]:
    from cuda import pathfinder  # which is on Linux only

    includes = (str(HERE), pathfinder.find_nvidia_header_directory("cudart"))
    sanitizers = SANITIZED if sanitizes() else ()
    return ("g++", *OPTIONS, *sanitizers, *options, *(f"-I{folder}" for folder in includes))


@functools.cache
def _version() -> str:
    command = ["g++", "-dumpfullversion", "-dumpmachine"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _kept(text: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that is made of a text, unless it was before; two processes may both make it."""
    folder = Path(tempfile.gettempdir()) / f"bilevel-kernels-{os.getuid()}"
    sources = ((HERE / name).read_text() for name in SOURCES)
    origin = chr(0).join((_version(), *_command(), *sources, text))
    file = folder / (sha256(origin.encode()).hexdigest()[:32] + suffix)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{os.getpid()}-{file.name}")
        make(aside)
        os.replace(aside, file)
    return file


def _run(command: list[str], text: str, name: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": ""}  # the compiler is not to be sanitized
    done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{name} does not compile:\n{done.stderr}")
