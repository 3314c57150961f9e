"""What the repository says about itself in more than one place is the same in all of them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import bilevel

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEST_LINE = 'python -m pip install "nox[uv]" && nox -s tests'


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(script: str) -> list[str]:
    lines = [line.partition(" #")[0] for line in read(script).splitlines()]
    settings = ("#", "set ", "cd ")
    return [line for line in lines if line and not line.startswith(settings)]


def test_ci_begins_with_the_line_the_readme_gives() -> None:
    assert commands(".ci/run")[0] == TEST_LINE
    assert TEST_LINE in read("README.md").splitlines()


def test_ci_runs_every_nox_session_but_two() -> None:
    """There is no GPU, and trials take long."""
    found = re.findall(r"^@nox\.session.*\ndef (\w+)", read("noxfile.py"), re.MULTILINE)
    left_out = ("gpu", "trials")
    sessions = [name.replace("_", "-") for name in found if name not in left_out]
    run = [name for line in commands(".ci/run") for name in line.partition("nox -s ")[2].split()]
    assert sorted(run) == sorted(sessions)


def test_changelog_begins_with_the_version() -> None:
    heading = re.search(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert heading is not None
    assert bilevel.__version__ in heading[1]


def test_citation_is_of_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == PYPROJECT["project"]["license"]
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("BiFormer:")
    assert paper["year"] == 2023
    assert {"type": "other", "value": "arXiv:2303.08810"} in paper["identifiers"]


def test_each_tool_knows_every_package() -> None:
    """A new backend has to be added to three lists of pyproject.toml."""
    entries = PYPROJECT["project"]["entry-points"]["bilevel.backends"].values()
    packages = sorted({"bilevel", *(entry.partition(":")[0] for entry in entries)})
    tool = PYPROJECT["tool"]
    in_wheel = tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(Path(path).name for path in in_wheel) == packages
    assert sorted(tool["importlinter"]["root_packages"]) == packages


def test_commits_are_checked_by_the_ruff_of_the_extra_dev() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    used = {line for hook in hooks for line in hook["additional_dependencies"] if "ruff" in line}
    of_dev = PYPROJECT["project"]["optional-dependencies"]["dev"]
    assert used == {line for line in of_dev if line.startswith("ruff")}


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", read(page))
    files = [link for link in links if "://" not in link]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_no_file_names_a_home_folder() -> None:
    """Paths of the machine on which something was made are of use to nobody."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of files")
    listed = subprocess.run(
        ["git", "grep", "-nIE", "/(home|root|Users|work)/[A-Za-z]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert listed.returncode in (0, 1), listed.stderr
    assert listed.stdout == ""
