"""The package as a whole: what it offers, and what importing it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bilevel


def imported_by(code: str) -> set[str]:
    """Which array libraries a fresh interpreter has imported after ``code``."""
    report = "import sys; print(*{'numpy', 'torch', 'cupy'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import bilevel",
        "import bilevel; bilevel.backends()",
        "import bilevel; bilevel.Grid((56, 56))",
        "import bilevel.ops, bilevel.registry, bilevel.arguments",
        "import bilevel_cupy, bilevel_numpy, bilevel_torch, bilevel_triton",
    ],
)
def test_no_array_library_is_imported_before_it_is_needed(code: str) -> None:
    assert imported_by(code) == set()


def test_numpy_arrays_do_not_import_torch() -> None:
    x = "numpy.ones((1, 4, 2, 3))"
    code = f"import bilevel, numpy; bilevel.bra({x}, {x}, {x}, topk=1, regions=2)"
    assert imported_by(code) == {"numpy"}


def test_the_layer_without_torch_says_how_to_install_it() -> None:
    code = """
import sys, bilevel
sys.modules["torch"] = None  # as if it were not installed
try:
    bilevel.nn
except bilevel.BackendUnavailable as error:
    assert 'python -m pip install "bilevel[torch]"' in str(error), error
else:
    raise AssertionError("bilevel.nn imports without torch")
del sys.modules["torch"]"""
    assert imported_by(code) == set()


@pytest.mark.parametrize("torch", ["there", "missing"])
def test_models_and_layers_are_listed(torch: str) -> None:
    missing = "sys.modules['torch'] = None" if torch == "missing" else ""
    code = f"import sys; {missing}\nimport bilevel; print(*dir(bilevel))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"nn", "models", "bra"} <= set(done.stdout.split())


def test_few_modules_are_imported() -> None:
    """For the shortest time, which the clock of a busy machine does not tell."""
    code = """
import sys
before = set(sys.modules)
import bilevel
print(*sys.modules.keys() - before)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert len([name for name in imported if name.startswith("bilevel")]) <= 12
    assert len(imported) <= 70


def test_every_public_name_is_there() -> None:
    assert [name for name in bilevel.__all__ if not hasattr(bilevel, name)] == []
    assert len(bilevel.__all__) == len(set(bilevel.__all__))


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'bilevel' has no attribute 'brra'"):
        bilevel.brra  # noqa: B018
