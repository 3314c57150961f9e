"""Where and with what something was measured: machine, versions, commit, GPU."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from shutil import which
from typing import Any

import torch

import bilevel
from bilevel.bench import roofline

LIBRARIES = ("torch", "triton", "cupy", "timm", "numpy")


def conditions(device: str, commit: str | None = None) -> dict[str, Any]:
    """The conditions of this process on a device, ``"cpu"`` or ``"cuda"``.

    ``commit`` is the one that is measured; by default git is asked for that of the package.
    """
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
        **(_gpu() if device == "cuda" else {}),
    }


def _gpu() -> dict[str, Any]:
    """The GPU's driver, the data that its floors follow from, and the rates that it reaches."""
    return {
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "gpu": {**roofline.this_gpu()._asdict(), **roofline.reached("cuda")},
    }


def checkout(package: Path) -> str | None:
    """The commit that a package's folder is checked out at.

    It ends in ``-dirty`` if the code was changed since. None if git is not installed or does not
    track the folder.
    """
    # Reading alone: a status that refreshes the index would lock others out of it.
    git = ("git", "--no-optional-locks", "-C", str(package))
    if not _output(*git, "ls-files", "__init__.py"):
        return None
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", "../backends")
    return f"{_output(*git, 'rev-parse', 'HEAD')}{'-dirty' if _output(*git, *changes) else ''}"


def _output(program: str, *arguments: str) -> str | None:
    """The first line that a program prints; None if it fails or is not installed."""
    found = which(program)
    if found is None:
        return None
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), None) if done.returncode == 0 else None
