"""A machine with a GPU may have newer libraries than bilevel was tried with, and lack some."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks import load_or_skip

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Where these tests alone run, warnings of those libraries are shown, and are no errors."""
    asked = [Path(argument.partition("::")[0]) for argument in config.args]
    if all((config.invocation_params.dir / path).is_relative_to(HERE) for path in asked):
        config.addinivalue_line("filterwarnings", "default")


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that is there."""
    load_or_skip(request.param)
    name: str = request.param
    return name


@pytest.fixture
def triton() -> None:
    """Triton's backend is there."""
    load_or_skip("triton")
