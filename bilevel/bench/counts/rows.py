"""``bilevel bench counts``: all kernels of all rows, and the file that they are saved to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bilevel import registry
from bilevel.bench import provenance
from bilevel.bench.counts.ahead import Compiled, compiled
from bilevel.bench.counts.kernels import GPUS, TIMES, counted
from bilevel.bench.roofline import floors
from bilevel.bench.shapes import SHAPES, Shape
from bilevel.errors import InputError
from bilevel.files import replacing
from bilevel.protocol import Routed

ROWS = {
    "224 s1": "224, stage 1",
    "224 s2": "224, stage 2",
    "224 s3": "224, stage 3",
    "512 s1": "512, stage 1",
    "1024 s1": "1024, stage 1",
    "1024 s2": "1024, stage 2",
    "1024 s3": "1024, stage 3",
    "1024 16x16": "1024, four routes",
}
"""The rows, and the names of their shapes among those that are measured on a GPU."""

PASSES = ("routing", "forward", "backward")


def run(arch: str, only: str | None, folder: Path, console: Console) -> None:
    """Count for an architecture, as ``"sm_90"``; print each row, and save them to a file in
    ``folder``. One row alone, with ``only``, is printed kernel by kernel, and not saved.

    Raises InputError if there is no such row, or if ``folder`` is a file; and what
    :func:`~.ahead.compiled` raises.
    """
    if only is not None:
        if only not in ROWS:
            raise InputError(f"expected --only to be one of {', '.join(ROWS)}, got {only!r}")
        show(only, row(SHAPES["cuda"][ROWS[only]], arch), console, kernels=True)
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for the counts, got the file {folder}; name a folder")
    rows = {}
    for name, shape in ROWS.items():
        rows[name] = row(SHAPES["cuda"][shape], arch)
        show(name, rows[name], console)
    path = folder / f"{arch}-counts.json"
    _save(path, arch, rows)
    console.print(f"saved {path}; these are counts of instructions and bytes, not measured times")


def row(shape: Shape, arch: str) -> dict[str, Any]:
    """The counts of one shape: of each pass, and of each kernel in it."""
    launches = launched(shape, int(arch.removeprefix("sm_")))
    least = floors(GPUS[arch], shape)
    floor_us = {
        "forward": 1e3 * least["forward"],
        "backward": 1e3 * (least["forward_backward"] - least["forward"]),
    }
    found: dict[str, Any] = {**shape._asdict()}
    kernels: dict[str, list[dict[str, Any]]] = {}
    for name in PASSES:
        kernels[name] = [counted(launch, arch) for launch in launches[name]]
        found.update(_of_pass(name, kernels[name], floor_us.get(name)))
    return {**found, "kernels": kernels}


def launched(shape: Shape, capability: int) -> dict[str, list[Compiled]]:
    """What the Triton backend launches in each pass of a call, on memory that nothing touches."""
    backend = registry.load("triton")
    assert backend.bra_routes is not None
    assert backend.bra_vjp is not None
    grid, dtype = shape.grid, getattr(torch, shape.dtype)
    maps = torch.empty(shape.batch, *grid.spatial, 3, shape.heads, shape.head_dim, dtype=dtype)
    q, k, v = maps.unbind(-3)
    index = torch.empty(shape.batch, grid.num_regions, shape.topk, dtype=torch.int64)
    routed = Routed(index, grid, grid, shape.head_dim**-0.5)
    results: list[Any] = []
    route = partial(backend.bra_routes, q, k, grid, grid, shape.topk)
    forward = partial(backend.bra_vjp, q, k, v, routed)
    found = {
        "routing": compiled(capability, route),
        "forward": compiled(capability, lambda: results.extend(forward())),
    }
    out, pullback = results
    return {**found, "backward": compiled(capability, lambda: pullback(torch.empty_like(out)))}


def show(name: str, row: Mapping[str, Any], console: Console, *, kernels: bool = False) -> None:
    """Print the times of each pass, and what is known of each of its kernels."""
    console.print(name)
    for each in PASSES:
        us = ", ".join(f"{what} {row[f'{each}_{what}_us']:.4g}" for what in TIMES)
        console.print(f"  {each}: {us} us; {row[f'{each}_limit']} limits")
        for kernel in row["kernels"][each] if kernels else ():
            console.print(f"    {kernel['kernel']}")
            for what, value in kernel.items():
                console.print(f"      {what}: {value}")


def _of_pass(
    name: str, kernels: Sequence[Mapping[str, Any]], floor: float | None
) -> dict[str, Any]:
    """The sums of all kernels of a pass; what limits it; and the floor's share of that."""
    sums = {what: sum(each[f"{what}_us"] for each in kernels) for what in TIMES}
    limit = max(sums, key=lambda what: sums[what])
    found: dict[str, Any] = {f"{name}_{what}_us": round(us, 2) for what, us in sums.items()}
    found[f"{name}_limit"] = limit
    if floor is not None:
        found[f"{name}_floor_us"] = round(floor, 2)
        found[f"{name}_share_of_floor"] = round(floor / sums[limit], 3)
    return found


def _save(path: Path, arch: str, rows: Mapping[str, Any]) -> None:
    known = provenance.conditions("cpu")
    header = {
        "what": "counts of instructions and bytes, and what follows from them: no measured times",
        "command": f"bilevel bench counts --arch {arch}",
        "arch": arch,
        "gpu_by_data_sheet": GPUS[arch]._asdict(),
        **{name: known[name] for name in ("date", "commit", "bilevel", "torch", "triton")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_file:
        partial_file.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
