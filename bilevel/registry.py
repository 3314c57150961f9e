"""From installed entry points to the backend that does the work."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from bilevel import plugins
from bilevel.errors import ArrayError, BackendRefused, BackendUnavailable
from bilevel.plugins import GROUP, BackendStatus, backends, specs, version_of
from bilevel.protocol import Array, Backend, BackendSpec, Problem

__all__ = [
    "GROUP",
    "BackendStatus",
    "backends",
    "choose",
    "describe",
    "forget",
    "load",
    "refusals",
    "specs",
    "version_of",
]


_LOADED: dict[str, Backend] = {}


def load(name: str) -> Backend:
    """The backend called ``name``, imported at its first use.

    Raises
    ------
    BackendUnavailable
        If there is none of this name, if it does not import, with the install command, if it is
        broken, or if it lacks something else, as a device.
    """
    if name not in _LOADED:
        _LOADED[name] = _imported(name)
    return _LOADED[name]


def forget() -> None:
    """Forget which backends are installed and loaded, so that the next call looks again: for tests
    that change it."""
    for cached in (_failure, _candidates):
        cached.cache_clear()
    plugins.forget()
    _LOADED.clear()


def _imported(name: str) -> Backend:
    if name not in specs():
        raise BackendUnavailable(_absent(name))
    spec = specs()[name]
    module, _, attribute = spec.load.partition(":")
    try:
        backend: object = getattr(import_module(module), attribute)
    except (BackendUnavailable, KeyboardInterrupt):  # it is installed, and says what it lacks
        raise
    except ImportError as error:
        raise BackendUnavailable(
            f"backend {name!r} does not import ({error}); install it with: {spec.install}"
        ) from error
    except BaseException as error:  # also one that ends Python
        raise _broken(name, f"{spec.load} does not load ({plugins.text(error)})") from error
    if not isinstance(backend, Backend):
        raise _broken(name, f"{spec.load} is no Backend, but of the type {type(backend).__name__}")
    if backend.library != spec.library:
        raise _broken(name, f"its spec is for {spec.library}, its Backend for {backend.library}")
    return backend


def _absent(name: str) -> str:
    """Why there is no backend of this name."""
    for row in plugins.installed().broken:
        if row.name == name:
            return f"backend {name!r} is broken: {row.why_not}"
    known = ", ".join(specs()) or "(none installed)"
    return f"expected backend to be one of {known}, got {name!r}"


def _broken(name: str, fault: str) -> BackendUnavailable:
    """The error for a backend that breaks the protocol; the fault is recorded."""
    said = f"backend {name!r} is broken: {fault}"
    if name in specs():
        plugins.record(name, said)
    return BackendUnavailable(f"{said}; mend or uninstall the package that has it")


def describe(x: Array) -> Problem:
    """Library, kind of device and dtype of one array.

    Raises
    ------
    ArrayError
        If ``x`` is not an array of a library that an installed backend works on.
    """
    array_type = type(x)
    library = _library_of(array_type) if hasattr(x, "dtype") else None
    if library is None:
        advice = (
            "its mask would be ignored: fill it, or give the plain array"
            if _masked(array_type)
            else "bilevel.backends() lists what is installed"
        )
        raise ArrayError(
            f"expected an array of one of the libraries {', '.join(_libraries())}, "
            f"got {array_type.__module__}.{array_type.__qualname__}; {advice}"
        )
    # As "cuda:0", or as "<CUDA Device 0>".
    device = (
        str(getattr(x, "device", "cpu")).lstrip("<").lower().replace(" ", ":").partition(":")[0]
    )
    return Problem(library, device, str(x.dtype).rpartition(".")[-1])


def choose(problem: Problem, backend: str | Backend | None = None) -> Backend:
    """The backend for a problem: the one asked for, of any library, else the best of the arrays'.

    Raises as :func:`bilevel.exchange.resolve` does, which adapts it to the arrays.
    """
    if isinstance(backend, Backend):
        return _accepting(backend, problem)
    return _LOADED[_chosen(backend, *problem)]


def refusals(problem: Problem) -> dict[str, str | None]:
    """What stands against each backend for the arrays' library, best first: None where nothing
    does. The first of those is chosen where none is asked for."""
    return {spec.name: _why_not(spec, problem) for spec in _candidates(problem.library)}


def _chosen(asked: str | None, *of_problem: Any) -> str:
    """The name of the backend for a problem, which is loaded then."""
    problem = Problem(*of_problem)
    if asked is not None:
        _accepting(load(asked), problem)
        return asked
    refusals = []
    for spec in _candidates(problem.library):
        why_not = _why_not(spec, problem)
        if why_not is None:
            return spec.name
        refusals.append(why_not)
    raise BackendRefused("; ".join(refusals))


def _why_not(spec: BackendSpec, problem: Problem) -> str | None:
    """What stands against choosing a backend that was not asked for; None if nothing does."""
    if spec.devices and problem.device not in spec.devices:
        where = " or ".join(spec.devices)
        return _refusal(spec.name, problem, f"takes only arrays on {where}")
    failure = _failure(spec.name)
    if failure is not None:
        return failure
    try:
        reason = _reason(load(spec.name), problem)
    except BackendUnavailable as error:
        return str(error)
    return None if reason is None else _refusal(spec.name, problem, reason)


def _reason(backend: Backend, problem: Problem) -> str | None:
    """What the backend itself says against a problem; BackendUnavailable if it cannot tell."""
    try:
        reason: object = backend.refuses(problem)
    except (Exception, SystemExit) as error:
        fault = f"its refuses() raises {plugins.text(error)}"
        raise _broken(backend.name, fault) from error
    if reason is None or isinstance(reason, str):
        return reason
    raise _broken(backend.name, f"its refuses() returns {reason!r:.80}, expected None or a str")


@cache
def _failure(name: str) -> str | None:
    """Why a backend that was not asked for does not import; tried once."""
    try:
        load(name)
    except BackendUnavailable as error:
        return str(error)
    return None


def _library_of(kind: type) -> str | None:
    """The library that an array of this type belongs to, among those of installed backends; None
    where a mask would be lost on the way."""
    if _masked(kind):
        return None
    modules = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((module for module in modules if module in _libraries()), None)


def _masked(kind: type) -> bool:
    return any(base.__name__ in ("MaskedArray", "MaskedTensor") for base in kind.__mro__)


def _libraries() -> list[str]:
    return sorted({spec.library for spec in specs().values()})


# torch.compile does not trace these: it calls them once, and takes what they return, a name, for a
# constant. It is what torch.compiler.assume_constant_result does, but torch is not imported here.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]
_library_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _candidates(library: str) -> list[BackendSpec]:
    of_library = [spec for spec in specs().values() if spec.library == library]
    return sorted(of_library, key=lambda spec: (-spec.priority, spec.name))


def _accepting(backend: Backend, problem: Problem) -> Backend:
    """``backend``, if it takes the problem, as it is or once the arrays are its library's."""
    seen = problem if backend.exchange is None else problem._replace(library=backend.library)
    reason = _reason(backend, seen)
    if reason is None:
        return backend
    elsewhere = (
        move
        for (library, device), move in _MOVES.items()
        if library == problem.library and _reason(backend, seen._replace(device=device)) is None
    )
    move = next((f"; move them: {move}" for move in elsewhere), "")
    raise BackendRefused(_refusal(backend.name, problem, reason) + move)


_MOVES = {
    ("torch", "cpu"): "x.cpu()",
    ("torch", "cuda"): "x.cuda()",
    ("numpy", "cuda"): "cupy.asarray(x)",
    ("cupy", "cpu"): "cupy.asnumpy(x)",
}
"""The calls that move an array of a library to a kind of device, for the message of an error."""


def _refusal(name: str, problem: Problem, reason: str) -> str:
    arrays = " ".join(filter(None, (problem.dtype, problem.library, "arrays")))
    return f"backend {name!r} {reason}, got {arrays} on {problem.device}"
