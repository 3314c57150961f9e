"""tests/gpu start on a machine that has a GPU and neither a registry nor all of the extra dev.

Here torch is told that there is a GPU, and nothing runs on it: tests are collected, and those of a
backend that is not there skip, for that backend alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import VARIABLE, load_or_skip

ROOT = Path(__file__).parents[2]
MACHINE = """
import sys, warnings
for name in {missing}:
    sys.modules[name] = None  # importing it fails
import pytest, torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)
import tests.frameworks
tests.frameworks.has_driver = lambda: True
warnings.warn("a newer library warns of itself", DeprecationWarning)
raise SystemExit(pytest.main([*{how}, "-p", "no:cacheprovider", "-n", "0", "-q", "tests/gpu"]))
"""
TOOLS = ["tyro", "nox", "hatchling", "rich", "timm", "array_api_compat"]


def run(missing: list[str], *how: str) -> str:
    code = MACHINE.format(missing=missing, how=how)
    # What these tests require of this machine is not required of that one.
    env = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def collected() -> str:
    load_or_skip("triton")
    return run(TOOLS, "--collect-only")


@pytest.mark.parametrize("file", ["test_kernels", "test_properties", "test_training"])
def test_collected_without_tools(collected: str, file: str) -> None:
    assert f"tests/gpu/{file}.py::test_" in collected


def test_properties_are_those_of_triton_and_torch(collected: str) -> None:
    for name in ("triton-", "torch-"):
        assert f"test_properties.py::test_property[{name}" in collected
    for name in ("cupy]", "cupy for torch]"):
        assert f"test_properties.py::test_property[{name}" in collected


def test_a_test_of_a_backend_that_is_not_there_says_why() -> None:
    said = run(TOOLS, "-rs", "-k", "test_memory_is_that_of_results and cupy")
    assert "1 skipped" in said
    assert "backend cupy: array_api_compat is not installed" in said
