"""Fixtures that stand for a framework; :mod:`frameworks` says what a missing one does. And how
Hypothesis draws: the same examples each time in CI, new ones on a developer's machine.

``BILEVEL_EXAMPLES=1000`` searches longer. A module of other generated trials says
``TRIALS = int(os.environ.get("BILEVEL_TRIALS", "25"))``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import settings

import bilevel
from bilevel import registry
from tests.frameworks import load_or_skip

settings.register_profile(
    "bilevel",
    deadline=None,  # a busy machine is no bug
    derandomize="CI" in os.environ,
    max_examples=int(os.environ.get("BILEVEL_EXAMPLES", "30")),
    print_blob=True,
)
settings.load_profile("bilevel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a module that says ``TRIALS`` are what `nox -s trials` runs."""
    for item in items:
        if hasattr(getattr(item, "module", None), "TRIALS"):
            item.add_marker("trials")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> bilevel.Backend:
    """A backend by name: ``@pytest.mark.parametrize("backend", NAMES, indirect=True)``."""
    return load_or_skip(request.param)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """The module torch."""
    load_or_skip("torch")
    return import_module("torch")


class EntryPoint(NamedTuple):
    """As much of an entry point as the registry looks at."""

    name: str
    value: str
    spec: bilevel.BackendSpec

    def load(self) -> bilevel.BackendSpec:
        return self.spec


@pytest.fixture
def install() -> Iterator[Callable[..., None]]:
    """``install(*specs)`` puts specs in the place of those installed, for one test."""
    with pytest.MonkeyPatch.context() as patch:

        def put(*specs: bilevel.BackendSpec) -> None:
            found = [EntryPoint(spec.name, spec.load, spec) for spec in specs]
            patch.setattr(metadata, "entry_points", lambda *, group: found)
            registry.forget()

        yield put
    registry.forget()


@pytest.fixture
def stand_in(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, bilevel.Backend], None]:
    """``stand_in("torch", backend)`` puts a backend in the place of the one that is installed by
    this name, for one test."""

    def put(name: str, backend: bilevel.Backend) -> None:
        module = f"stand_in_for_{name}"
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(BACKEND=backend))
        known = registry.specs()
        install(*{**known, name: replace(known[name], load=f"{module}:BACKEND")}.values())

    return put


@pytest.fixture
def strict(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> bilevel.Backend:
    """The CuPy backend bound to array_api_strict, whose arrays bilevel knows for one test."""
    import array_api_strict

    from tests.backend_cupy.portable import SPEC, STRICT

    install(*registry.specs().values(), SPEC)
    # It calls its device by a name that no other library has, lest anyone expects one.
    monkeypatch.setattr(array_api_strict.Device, "__str__", lambda device: "cpu", raising=False)
    return STRICT


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images that a model can learn: 10 of stripes in each of the class folders
    `across` and `down`."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir()
        for i in range(10):
            wave = 127 + 100 * np.sin(np.arange(40) * 0.8 + rng.random() * 6)
            image = np.broadcast_to(wave, (40, 40)) + rng.normal(0, 10, (40, 40))
            image = image.T if name == "across" else image
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root
