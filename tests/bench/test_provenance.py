"""A file of results says where it is from, by its header and by its name."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from bilevel.bench import provenance, results


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
    assert provenance.checkout(package) is None  # git does not know the package
    run([git, "add", "."])
    run([git, "-c", "user.name=a", "-c", "user.email=b", "commit", "-m", "c"])
    commit = run([git, "rev-parse", "HEAD"]).stdout.strip()
    assert provenance.checkout(package) == commit
    (tmp_path / "results.json").touch()
    assert provenance.checkout(package) == commit
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    os.utime(code, (0, 0))  # git would note that the code is the same for all that
    assert provenance.checkout(package) == commit
    assert index.read_bytes() == before
    code.write_text("changed = True\n")
    assert provenance.checkout(package) == f"{commit}-dirty"


def test_files_are_named_for_the_gpu_or_the_subject() -> None:
    assert results.file_name("op", "NVIDIA H200") == "nvidia-h200.json"
    assert results.file_name("op", "NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb.json"
    assert results.file_name("model") == "cpu-model.json"
