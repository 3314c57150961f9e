"""Where and with what something was measured, and the file that says it."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from shutil import which
from typing import Any

import torch

import bilevel
from bilevel.bench import floors
from bilevel.files import replacing

LIBRARIES = ("torch", "triton", "cupy", "timm", "numpy")


def conditions(commit: str | None = None) -> dict[str, Any]:
    """Of this process; ``commit`` is the one that is measured, where no checkout tells."""
    installed = metadata.packages_distributions()
    versions = {
        library: metadata.version(installed[library][0]) if library in installed else None
        for library in LIBRARIES
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "bilevel": bilevel.__version__,
        "commit": commit or checkout(Path(bilevel.__file__).parent),
        **versions,
    }


def gpu_conditions() -> dict[str, Any]:
    """Of the GPU: its driver, its data that floors follow from, and what it reaches of them."""
    return {
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "gpu": {**floors.this_gpu()._asdict(), **floors.reached("cuda")},
    }


def checkout(package: Path) -> str | None:
    """The commit that a package's folder is checked out at, with ``-dirty`` where the code was
    changed since; None where git does not know the folder, or is not there."""
    git = ("git", "-C", str(package))
    if not _output(*git, "ls-files", "__init__.py"):
        return None
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", "../backends")
    return f"{_output(*git, 'rev-parse', 'HEAD')}{'-dirty' if _output(*git, *changes) else ''}"


def _output(program: str, *arguments: str) -> str | None:
    """The first line that a program prints; None where it fails or is not there."""
    found = which(program)
    if found is None:
        return None
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), None) if done.returncode == 0 else None


def file_for(gpu: str) -> str:
    """The name of the file for a GPU: ``NVIDIA H200`` has ``nvidia-h200.json``."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def save(path: Path, header: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write rows, and the command and conditions they were measured in, as JSON; whole or not at
    all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")


def kept(path: Path, header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a run that was ended early: those of the file, if it was written by the same
    command in the same conditions, at a commit that is known and without changes."""
    commit = header["commit"]
    if commit is None or commit.endswith("-dirty") or not path.exists():
        return []
    found = json.loads(path.read_text())
    rows: list[dict[str, Any]] = found.pop("rows")
    return rows if _comparable(found) == _comparable(header) else []


def _comparable(header: Mapping[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run."""
    same = {name: value for name, value in header.items() if name not in ("date", "gpu")}
    return {**same, "gpu": header["gpu"]["name"]}
