"""Installed entry points and the specs they name. What is broken is recorded, not fatal."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from bilevel.protocol import BackendSpec

GROUP = "bilevel.backends"


class BackendStatus(NamedTuple):
    """One row of :func:`backends`."""

    name: str
    """What users write as ``backend=``."""
    library: str
    """The array library it works on; empty if the backend is broken and does not say."""
    version: str | None
    """Version of the library it needs; None if that is not installed."""
    why_not: str | None
    """None if the backend is ready to use, else what stands against it, in one line."""
    install: str
    """The command that installs what it needs; empty if the backend is broken and does not say."""


class Installed(NamedTuple):
    """What the entry points name."""

    specs: Mapping[str, BackendSpec]
    """The specs that can be used, by name, sorted by name."""
    broken: tuple[BackendStatus, ...]
    """The rows of the others."""


@cache
def installed() -> Installed:
    """All installed backends. Of two with one name, ours is taken, or else the first in the order
    of the entry points' names and values; the other is recorded as broken."""
    from importlib import metadata  # here, for it takes as long as the rest of bilevel together

    found: dict[str, BackendSpec] = {}
    broken: list[BackendStatus] = []
    order = sorted(
        metadata.entry_points(group=GROUP), key=lambda e: (not _ours(e), e.name, e.value)
    )
    for entry in order:
        spec, why_not = _loaded(entry)
        if spec is None:
            row = BackendStatus(entry.name, "", None, why_not, "")
        elif spec.name in found:
            taken = found[spec.name].load
            why_not = f"another backend has this name: {taken} is taken, not {spec.load}"
            row = BackendStatus(spec.name, spec.library, None, why_not, spec.install)
        else:
            found[spec.name] = spec
            continue
        broken.append(row)
        warn(f"backend {row.name!r} is left out: {why_not}; mend or uninstall {_package(entry)}")
    return Installed(dict(sorted(found.items())), tuple(broken))


@cache
def specs() -> Mapping[str, BackendSpec]:
    """The specs of all installed backends by name, sorted by name; those that are broken are not
    among them."""
    return installed().specs


_FAULTS: dict[str, str] = {}


def record(name: str, fault: str) -> None:
    """Note what is wrong with a backend, as found when it was used; warn the first time."""
    if name not in _FAULTS:
        _FAULTS[name] = fault
        warn(f"{fault}; it is left out where it is not asked for")


def warn(message: str) -> None:
    """A warning of something broken that does not concern the call."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def forget() -> None:
    """Look again at the next call."""
    installed.cache_clear()
    specs.cache_clear()
    _FAULTS.clear()


def backends() -> list[BackendStatus]:
    """What is installed: every backend with its library, its version and whether it is ready.

    Reads metadata alone: no array library is imported. A backend that is broken has a row too.

    >>> "numpy" in [b.name for b in backends() if b.why_not is None]
    True
    """
    rows = [*map(_status, specs().values()), *installed().broken]
    return sorted(rows, key=lambda row: row.name)  # of one name, the one that is taken is first


def version_of(spec: BackendSpec) -> str | None:
    """The version of the distribution that a backend requires; None if it is not installed."""
    from importlib import metadata

    names = (spec.requires,) if isinstance(spec.requires, str) else spec.requires
    for name in names:
        try:
            return metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):  # no such name, or no name at all
            continue
    return None


def text(error: BaseException) -> str:
    """An error in one line, with its type."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # a plugin's error may be as broken as the plugin
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _status(spec: BackendSpec) -> BackendStatus:
    missing = [name for name in (spec.library, *spec.modules) if not _is_there(name)]
    if missing:
        why_not: str | None = f"{missing[0]} is not installed"
    elif spec.programs and not any(map(_can_run, spec.programs)):
        why_not = f"none of {', '.join(spec.programs)} is there to run"
    else:
        why_not = _FAULTS.get(spec.name)
    return BackendStatus(spec.name, spec.library, version_of(spec), why_not, spec.install)


def _is_there(module: str) -> bool:
    """Whether a module can be found."""
    try:
        return find_spec(module) is not None
    except Exception:  # a package around it does not import
        return False


def _can_run(program: str) -> bool:
    """Whether a program is there, of this name or that an environment variable names."""
    if program.startswith("$"):
        words = os.environ.get(program[1:], "").split()
        return bool(words) and shutil.which(words[0]) is not None
    return shutil.which(program) is not None


def _loaded(entry: Any) -> tuple[BackendSpec | None, str | None]:
    """The spec that an entry point names, or what is wrong with it."""
    where = f"the entry point {entry.name} = {entry.value} of {GROUP}"
    try:
        spec = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also one that ends Python: a plugin has no say in that
        return None, f"{where} does not load ({text(error)})"
    if not isinstance(spec, BackendSpec):
        return None, f"{where} is no BackendSpec, but of the type {type(spec).__name__}"
    for field in fields(BackendSpec):
        value = getattr(spec, field.name)
        if not _RULES[str(field.type)](value):
            return None, f"{where} has {field.name}={value!r:.80}, expected {field.type}"
    if not all(spec.load.partition(":")):
        return None, f"{where} has load={spec.load!r:.80}, expected 'module:attribute'"
    return spec, None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_name, value))


_RULES = {
    "str": _is_name,
    "int": lambda value: isinstance(value, int),
    "str | tuple[str, ...]": lambda value: _is_name(value) or _are_names(value),
    "tuple[str, ...]": _are_names,
}
"""What the value of a spec's field must be, by the field's type."""


def _ours(entry: Any) -> bool:
    return _package(entry) == "bilevel"


def _package(entry: Any) -> str:
    """The distribution that has an entry point, as far as it is known."""
    return getattr(getattr(entry, "dist", None), "name", None) or "the package that has it"
