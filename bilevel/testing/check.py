"""Check a backend: it has the properties that apply to it, on generated cases."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib import import_module

from hypothesis import HealthCheck, Phase, given, settings

from bilevel import registry
from bilevel.protocol import Backend, BackendSpec, Problem
from bilevel.testing.arrays import home_of
from bilevel.testing.asserts import expect
from bilevel.testing.properties import Property, properties_of
from bilevel.testing.strategies import Case, cases


def check_backend(backend: BackendSpec | Backend, examples: int = 30) -> None:
    """Check that a backend has every property that applies to it, and that its spec is true.

    The cases are the same at each call. The distribution must be installed, so that bilevel knows
    its arrays: ``python -m pip install -e .``.

    Parameters
    ----------
    backend
        The spec that the entry point names; or the backend alone, while it has no spec yet.
    examples
        Cases for each property.

    Raises
    ------
    AssertionError
        If properties do not hold; it names them, each with its smallest failing case.
    """
    value = _loaded(backend) if isinstance(backend, BackendSpec) else backend
    _check_refusals(value)
    failures = [_failure(value, check, examples) for check in properties_of(value)]
    found = [failure for failure in failures if failure is not None]
    if found:
        count = f"{len(found)} of {len(failures)} properties do not hold"
        raise AssertionError(f"backend {value.name!r}: {count}\n\n" + "\n\n".join(found))


def check_property(backend: Backend, check: Property, examples: int = 30) -> None:
    """Check that a backend has one property, so that each can be a test of its own::

        @pytest.mark.parametrize("check", properties_of(BACKEND), ids=lambda check: check.__name__)
        def test_backend(check):
            check_property(BACKEND, check)

    Raises AssertionError with the smallest failing case.
    """
    failure = _failure(backend, check, examples)
    if failure is not None:
        raise AssertionError(f"backend {backend.name!r}: {failure}")


def _failure(backend: Backend, check: Property, examples: int) -> str | None:
    """What is wrong, on the smallest case for which a property does not hold; None if it holds."""
    failed: list[tuple[Case, Exception]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(case=cases(backend))
    def run(case: Case) -> None:
        try:
            check(backend, case)
        except Exception as error:
            failed.append((case, error))
            raise

    try:
        run()
    except Exception:
        if not failed:
            raise  # not by the property
        case, error = failed[-1]  # Hypothesis ends with the smallest
        said = str(error) if isinstance(error, AssertionError) else f"raised {error!r}"
        return f"{check.__name__}: {said}\n  {_short(case)}"
    return None


def _short(case: Case) -> str:
    """The case, without fields that have their default."""
    given = {field.name: (getattr(case, field.name), field.default) for field in fields(case)}
    told = [f"{name}={value!r}" for name, (value, default) in given.items() if value != default]
    return f"Case({', '.join(told)})"


def _loaded(spec: BackendSpec) -> Backend:
    """The backend that a spec names, once the spec is found to be true."""
    module, _, attribute = spec.load.partition(":")
    try:
        backend = getattr(import_module(module), attribute)
    except Exception as error:
        raise AssertionError(
            f"expected load={spec.load!r} to name a backend as module:attribute, got {error!r}"
        ) from error
    expect(
        isinstance(backend, Backend),
        f"expected {spec.load} to be a bilevel.Backend, got {type(backend).__qualname__}",
    )
    for said, is_so in ((spec.name, backend.name), (spec.library, backend.library)):
        expect(said == is_so, f"expected the backend to say {said!r} as its spec, got {is_so!r}")
    expect(
        registry.specs().get(spec.name) == spec,
        f"expected an entry point of the group {registry.GROUP} that names the spec of "
        f"{spec.name!r}; install the distribution that has it",
    )
    expect(
        registry.version_of(spec) is not None,
        f"expected requires={spec.requires!r} to be an installed distribution, for its version",
    )
    imports_it = subprocess.call([sys.executable, "-c", _AFTER_THE_SPECS, spec.library])
    expect(
        not imports_it,
        f"expected the module that has the spec to import without {spec.library}; import that "
        f"where the backend is, in {module}",
    )
    return backend


_AFTER_THE_SPECS = """import sys, bilevel.registry
bilevel.registry.specs()
sys.exit(sys.argv[1] in sys.modules)"""


def _check_refusals(backend: Backend) -> None:
    """It takes float32 arrays of its library, and says in words why it refuses nonsense."""
    try:
        home = home_of(backend)
    except ValueError as error:
        raise AssertionError(str(error)) from None
    nonsense = [Problem("no such library", home.device, "float32")]
    nonsense += [Problem(*home, dtype) for dtype in ("int64", "complex64", "bool")]
    for problem in nonsense:
        reason = backend.refuses(problem)
        expect(
            isinstance(reason, str) and bool(reason.strip()),
            f"expected backend {backend.name!r} to refuse {problem} and say what it takes, got "
            f"{reason!r}",
        )
