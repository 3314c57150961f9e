"""The counts of one launch, and the least time that each of them takes on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilevel.bench.counts import sass
from bilevel.bench.counts.ahead import SHARED_MEMORY, Compiled
from bilevel.bench.counts.work import Work, work
from bilevel.bench.roofline import EXPONENTIALS, Gpu

WARP = 32
"""Threads of a warp."""

ISSUED = 4
"""Instructions that a multiprocessor issues in a clock, each for a warp."""

REGISTERS = 65_536
"""Of a multiprocessor; warps take them by 256."""

RESERVED = 1024
"""Bytes of shared memory that a program takes for the system."""

WARPS, PROGRAMS = 64, 32
"""Most of each on a multiprocessor."""

GPUS = {
    "sm_90": Gpu("H200", (9, 0), 132, 1_900_000_000, 4_800_000_000_000, 50 * 2**20),
    "sm_80": Gpu("A100", (8, 0), 108, 1_410_000_000, 2_039_000_000_000, 40 * 2**20),
}
"""By the architecture that kernels are compiled for, a GPU of it: multiprocessors, clock, memory
and level 2 cache by its data sheet."""


TIMES = ("issue", "exp", "memory")
"""What takes time: all instructions, one a clock in each quarter of a multiprocessor; exponentials,
and what else takes the special function units; memory that reads or writes each number once."""


def counted(launch: Compiled, arch: str) -> dict[str, Any]:
    """The counts of a launch, as plain values; and the microseconds that would pass on the GPU of
    an architecture if nothing but one of :data:`TIMES` took time."""
    done, gpu = work(launch.kernel, launch.arguments), GPUS[arch]
    code = sass.instructions(launch.sass)
    found = sass.loops(code)
    executed = per_warp(code, found, done)
    programs = launch.programs if done.programs is None else done.programs
    idle = max(0.0, launch.programs - programs)
    issued = launch.warps * (programs * sum(executed.values()) + idle * before_exit(code))
    special = launch.warps * programs * executed["special"] * WARP
    clocks_per_us = gpu.multiprocessors * gpu.clock_hz / 1e6
    loop = sass.main_loop(found)
    return {
        "kernel": launch.kernel,
        "programs": launch.programs,
        "programs_with_work": round(programs),
        "warps": launch.warps,
        "registers": launch.registers,
        "stack_bytes": launch.stack,
        "shared_bytes": launch.shared,
        "programs_per_multiprocessor": together(launch, gpu.capability),
        "passes_of_main_loop": round(passes(loop.start, found, done), 2) if loop else 0,
        "instructions_per_warp": around(loop, code),
        "executed_per_warp": {pipe: round(n, 1) for pipe, n in executed.items() if n},
        "exps": round(launch.warps * programs * exponentials(code, found, done) * WARP),
        "l2_bytes": round(done.l2_bytes),
        "memory_bytes": round(done.memory_bytes),
        "issue_us": round(issued / (ISSUED * clocks_per_us), 2),
        "exp_us": round(special / (EXPONENTIALS * clocks_per_us), 2),
        "memory_us": round(done.memory_bytes / gpu.memory_bytes_per_s * 1e6, 2),
    }


def per_warp(
    code: Sequence[sass.Instruction], found: Sequence[sass.Loop], done: Work
) -> dict[str, float]:
    """Instructions that a warp of a program with work executes, by pipe. Of two branches both
    count, unless the work says otherwise."""
    executed = dict.fromkeys(sass.PIPES, 0.0)
    for each in code:
        executed[each.pipe] += passes(each.address, found, done)
    return executed


def passes(address: int, found: Sequence[sass.Loop], done: Work) -> float:
    """How often an instruction is executed."""
    around = [loop for loop in found if address in loop]
    if not around:
        return done.straight
    outermost = [loop for loop in found if loop.depth == 0]
    times = done.outer[min(outermost.index(around[0]), len(done.outer) - 1)]
    for loop in around[1:]:
        times *= done.inner[loop.depth - 1] if loop.depth <= len(done.inner) else 1
    return times


def exponentials(code: Sequence[sass.Instruction], found: Sequence[sass.Loop], done: Work) -> float:
    """Exponentials that a thread computes."""
    return sum(passes(each.address, found, done) for each in code if each.name == "MUFU.EX2")


def around(loop: sass.Loop | None, code: Sequence[sass.Instruction]) -> dict[str, dict[str, int]]:
    """Instructions before, in and after a loop, by pipe."""
    if loop is None:
        return {"before": dict(sass.by_pipe(code).most_common())}
    parts = {
        "before": [each for each in code if each.address < loop.start],
        "in": [each for each in code if each.address in loop],
        "after": [each for each in code if each.address > loop.end],
    }
    return {name: dict(sass.by_pipe(part).most_common()) for name, part in parts.items()}


def before_exit(code: Sequence[sass.Instruction]) -> int:
    """Instructions of a warp whose program has no work."""
    exits = (n for n, each in enumerate(code, start=1) if each.name == "EXIT")
    return next(exits, len(code))


def together(launch: Compiled, capability: tuple[int, int]) -> int:
    """Programs that a multiprocessor holds at once."""
    warp_registers = -(-launch.registers * WARP // 256) * 256
    shared = SHARED_MEMORY[10 * capability[0] + capability[1]] + RESERVED
    return min(
        REGISTERS // (warp_registers * launch.warps),
        shared // (launch.shared + RESERVED),
        WARPS // launch.warps,
        PROGRAMS,
    )
