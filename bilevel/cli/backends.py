"""``bilevel backends``"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from shutil import get_terminal_size

from bilevel.errors import BackendUnavailable
from bilevel.protocol import BackendSpec
from bilevel.registry import BackendStatus, backends, load, specs


@dataclass(frozen=True)
class Backends:
    """Which backends are installed, whether they are ready here, and how to install them."""

    def __call__(self) -> None:
        width = get_terminal_size().columns  # 80 where there is no terminal
        for row in backends():
            print("\n".join(_lines(row, max(width, 40))))


def _lines(row: BackendStatus, width: int) -> list[str]:
    """What is said of a backend. A command to copy stays whole, whatever the width."""
    why_not = row.why_not or _why_not(row.name)
    ready = f"no, {why_not}" if why_not else "yes"
    version = "-" if row.version is None else row.version
    return [
        f"{row.name} {version}",
        *textwrap.wrap(
            f"ready: {ready}",
            width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        ),
        *([f"  install: {row.install}"] if row.install else []),
    ]


def _why_not(name: str) -> str | None:
    """What stands against a backend that is installed, as that there is no GPU."""
    try:
        load(name)
    except BackendUnavailable as error:
        return str(error)
    return _no_device(specs()[name])


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
