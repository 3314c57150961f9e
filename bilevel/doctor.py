"""What is installed here, who would compute what, and whether each backend computes it right."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel import __version__, ops, plugins, registry
from bilevel.errors import BackendRefused, BackendUnavailable
from bilevel.host import from_numpy, to_numpy
from bilevel.protocol import BackendSpec, Problem

LIBRARIES = ("numpy", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "timm", "torchvision")
"""Distributions whose versions are told, beside those that backends require."""
ARRAYS = (("numpy", "cpu"), ("torch", "cpu"), ("torch", "cuda"), ("cupy", "cuda"))
"""Libraries and kinds of devices for which the backend that computes is told."""
TOLERANCE = 1e-4
"""How far float32 may be from float64, for the largest value 1: far above rounding, far below any
error of an index or a scale."""


class Choice(NamedTuple):
    """Who computes for arrays of a library on a kind of device."""

    library: str
    device: str
    backend: str | None
    """None where no backend takes them."""
    refusals: dict[str, str]
    """Why not the others, by name: those that would come before it, or all."""


class Trial(NamedTuple):
    """How one backend did in the self-test."""

    backend: str
    ready: bool
    passed: bool
    """False too where it is not ready."""
    said: str
    """What is wrong, or why it is not ready; else how far it is from the reference."""
    seconds: float


@dataclass(frozen=True)
class Report:
    """All that is found, made of what JSON has."""

    versions: dict[str, str | None]
    devices: dict[str, str]
    choices: list[Choice]
    trials: list[Trial]
    caches: dict[str, int] = field(default_factory=dict)
    """Folders of compiled kernels, and the bytes in them."""

    @property
    def healthy(self) -> bool:
        """Whether every backend that is ready computes right."""
        return all(trial.passed for trial in self.trials if trial.ready)


def examine() -> Report:
    """Look at everything: some seconds, and the time to compile kernels at their first use."""
    return Report(versions(), devices(), choices(), [*trials()], caches())


def versions() -> dict[str, str | None]:
    """Of bilevel, Python, the system, and array libraries; None for what is not installed."""
    required = (spec.requires for spec in registry.specs().values())
    named = [r for each in required for r in ([each] if isinstance(each, str) else each)]
    found: dict[str, str | None] = {"bilevel": __version__, "python": platform.python_version()}
    found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    for name in dict.fromkeys([*LIBRARIES, *named]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def devices() -> dict[str, str]:
    """The CPU, and the GPUs that torch finds, in words."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    found = {"cpu": f"{cores} cores"}
    torch, why_not = _torch()
    if torch is None:
        return found | {"torch": why_not}
    found["cpu"] += f", {torch.get_num_threads()} threads of torch, "
    found["cpu"] += torch.backends.cpu.get_cpu_capability()
    for i in range(torch.cuda.device_count() if _has_gpu() else 0):
        about = torch.cuda.get_device_properties(i)
        capability = f"{about.major}.{about.minor}"
        memory = f"{about.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{i}"] = f"{about.name}, {memory}, compute capability {capability}"
    return found


def _torch() -> tuple[Any, str]:
    """Torch, or None and why it does not import: who asks may have one that is broken."""
    try:
        import torch
    except Exception as error:
        return None, f"does not import ({plugins.text(error)})"
    return torch, ""


def _has_gpu() -> bool:
    torch, _ = _torch()
    return torch is not None and torch.cuda.is_available()


def choices() -> list[Choice]:
    """Who computes float32 arrays of each library and kind of device, and why others do not."""
    return [_choice(library, device) for library, device in ARRAYS]


def _choice(library: str, device: str) -> Choice:
    if (library, device) == ("torch", "cuda") and not _has_gpu():
        return Choice(library, device, None, {"torch": "torch finds no GPU"})
    problem = Problem(library, device, "float32", head_dim=32, axes=2)
    refused: dict[str, str] = {}
    for name, reason in registry.refusals(problem).items():
        why_not = reason or why_not_ready(name)
        if why_not is None:
            return Choice(library, device, name, refused)
        refused[name] = why_not
    return Choice(library, device, None, refused or {library: "no backend is for its arrays"})


def why_not_ready(name: str) -> str | None:
    """What stands against a backend that is installed, as that there is no GPU."""
    try:
        registry.load(name)
    except BackendUnavailable as error:
        return str(error)
    return _no_device(registry.specs()[name])


def _no_device(spec: BackendSpec) -> str | None:
    """That torch finds no device of a backend's kinds. Backends of other libraries say so as they
    load; torch's may load anywhere, to be compiled or interpreted."""
    if spec.library != "torch" or not spec.devices:
        return None
    import torch

    for device in spec.devices:
        try:
            if torch.get_device_module(device).is_available():
                return None
        except RuntimeError:  # torch knows no such kind
            continue
    kinds = " or ".join(spec.devices)
    return f"backend {spec.name!r} needs a GPU ({kinds}), and torch finds none here"


def trials() -> Iterator[Trial]:
    """Hold each installed backend to NumPy's in float64, forward and backward."""
    for row in registry.backends():
        why_not = row.why_not or why_not_ready(row.name)
        if why_not is not None:
            yield Trial(row.name, False, False, why_not, 0.0)
            continue
        start = time.perf_counter()
        passed, said = _tried(registry.specs()[row.name])
        yield Trial(row.name, True, passed, said, round(time.perf_counter() - start, 2))


CASES: tuple[dict[str, Any], ...] = (
    {"spatial": (8, 12), "regions": (4, 3), "topk": 2, "heads": 2, "head_dim": 16},
    {"spatial": (11, 9), "regions": (3, 4), "topk": 5, "heads": 3, "head_dim": 8},
    {"spatial": (50,), "regions": (7,), "topk": 3, "heads": 1, "head_dim": 32},
)
"""Regions that divide the map, regions that do not, and a sequence."""


def _tried(spec: BackendSpec) -> tuple[bool, str]:
    """Whether a backend that is ready agrees, and how far it is off or what is wrong."""
    worst, backward = 0.0, True
    for i, case in enumerate(CASES):
        try:
            errors, has_gradients = _differences(spec, case, np.random.default_rng(i))
        except BackendRefused:
            continue  # it takes no such call, and says so
        except Exception as error:  # whatever a broken backend raises
            return False, f"raises {plugins.text(error)}"
        backward &= has_gradients
        for what, difference in errors.items():
            if not difference <= TOLERANCE:  # nor is NaN
                return False, f"{what} is off by {difference:.1e} for {case}"
            worst = max(worst, difference)
    return True, f"within {worst:.0e} of NumPy in float64" + ("" if backward else ", no gradients")


def _differences(
    spec: BackendSpec, case: dict[str, Any], rng: np.random.Generator
) -> tuple[dict[str, float], bool]:
    """The largest differences from the reference, by what differs; and whether there are gradients.

    Routes are compared first; then both sides have those of the reference.
    """
    shape = (2, *case["spatial"], case["heads"], case["head_dim"])
    arrays = rng.standard_normal((4, *shape)).astype(np.float32)
    device = spec.devices[0] if spec.devices else "cpu"
    q, k, v, d_out = (from_numpy(x, spec.library, device) for x in arrays)
    exact = arrays.astype(np.float64)
    how = {"topk": case["topk"], "regions": case["regions"]}
    _, routes = ops.bra(*exact[:3], **how, backend="numpy", return_routes=True)
    out, found = ops.bra(q, k, v, **how, backend=spec.name, return_routes=True)
    differ = {"routing": float((to_numpy(found.index) != routes.index).sum())}
    want, pullback = ops.bra_vjp(*exact[:3], **how, backend="numpy")
    differ["bra"] = _difference(out, want)
    try:
        _, backward = ops.bra_vjp(q, k, v, **how, backend=spec.name)
    except BackendRefused:
        return differ, False
    gradients = zip("qkv", backward(d_out), pullback(exact[3]), strict=True)
    return differ | {f"the gradient of {n}": _difference(x, y) for n, x, y in gradients}, True


def _difference(got: Any, want: NDArray[Any]) -> float:
    return float(np.abs(to_numpy(got) - want).max() / np.abs(want).max())


def caches() -> dict[str, int]:
    """The folders of compiled kernels that are there, and the bytes in them."""
    named = [folder for spec in registry.specs().values() for folder in spec.caches]
    places = [os.path.expandvars(os.path.expanduser(folder)) for folder in dict.fromkeys(named)]
    there = [Path(place) for place in places if "$" not in place and Path(place).is_dir()]
    return {
        str(folder): sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in there
    }
