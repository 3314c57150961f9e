"""What pyproject.toml asks for can be installed on the systems that people have, says uv."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

uv = pytest.importorskip("uv", reason="uv, which resolves, is not installed")

ROOT = Path(__file__).parents[2]
NEWEST = "3.14"
SYSTEMS = ["macos", "windows", "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"]
CONFLICT = "No solution found"


def resolve(project: Path, system: str, *extras: str) -> subprocess.CompletedProcess[str]:
    """Ask uv for versions of all that the project needs there."""
    wanted = [word for extra in extras for word in ("--extra", extra)]
    command = [uv.find_uv_bin(), "pip", "compile", str(project), *wanted, "--no-config"]
    where = ["--python-platform", system, "--python-version", NEWEST, "--no-python-downloads"]
    return subprocess.run([*command, *where], capture_output=True, text=True)


@functools.cache
def registry_answers() -> bool:
    """Whether uv finds, where it looks, a package that is surely there."""
    found = subprocess.run(
        [uv.find_uv_bin(), "pip", "compile", "--no-deps", "-"],
        input="packaging",
        capture_output=True,
        text=True,
    )
    return found.returncode == 0


def hold(done: subprocess.CompletedProcess[str]) -> None:
    """A conflict fails; what failed for want of a registry skips."""
    if done.returncode and CONFLICT not in done.stderr and not registry_answers():
        pytest.skip("uv reaches no registry of packages")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("extras", ["train", "dev"])
def test_an_extra_resolves(extras: str, system: str) -> None:
    if not registry_answers():
        pytest.skip("uv reaches no registry of packages")
    hold(resolve(ROOT / "pyproject.toml", system, *extras.split()))


def test_a_conflict_is_no_lack_of_a_registry(tmp_path: Path) -> None:
    if not registry_answers():
        pytest.skip("uv reaches no registry of packages")
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "x"\nversion = "0"\ndependencies = ["packaging>=24", "packaging<20"]\n'
    )
    with pytest.raises(AssertionError, match=CONFLICT):
        hold(resolve(project, "macos"))
