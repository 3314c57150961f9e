"""The file of results: conditions and commands, then one row for each measurement, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from bilevel.files import replacing

Row: TypeAlias = dict[str, Any]
"""What was measured of one shape or model: plain values that name it, and groups of numbers."""


def file_name(subject: str, gpu: str | None = None) -> str:
    """The name of a file: ``cpu-op.json`` for a subject on a CPU, but ``scaling.json`` for what is
    mostly counted; ``nvidia-h200.json`` for all subjects on an NVIDIA H200."""
    on_cpu = subject if subject == "scaling" else f"cpu-{subject}"
    name = gpu.lower() if gpu else on_cpu
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ".json"


def save(path: Path, header: Mapping[str, Any], rows: Collection[Row]) -> None:
    """Write the header and the rows as JSON; the file is replaced as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({**header, "rows": list(rows)}, indent=1) + "\n")


def earlier(path: Path, header: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Row]]:
    """The commands in a file by subject, and its rows by name, if it exists and was measured under
    the same conditions; else nothing."""
    if not path.exists():
        return {}, {}
    found = json.loads(path.read_text())
    if _conditions(found) != _conditions(header):
        return {}, {}
    return found["commands"], {row["name"]: row for row in found["rows"]}


def certain(commit: str | None) -> bool:
    """Whether a commit says which code was measured: it is known and has no changes on top."""
    return commit is not None and not commit.endswith("-dirty")


def _conditions(header: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a header that must be equal for two runs to be comparable: not the date, nor the
    rates that a GPU reaches at the moment."""
    passing = ("date", "commands", "rows", "gpu")
    same = {name: value for name, value in header.items() if name not in passing}
    return {**same, "gpu": header["gpu"]["name"] if "gpu" in header else None}
