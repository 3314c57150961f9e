"""Read machine code as ``cuobjdump -sass`` prints it: instructions, their pipes, loops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;")
_JUMP = re.compile(r"BRA\b.*?(0x[0-9a-f]+)\s*\)?$")

PIPES = {
    "matrix": r"HMMA|HGMMA|IMMA|WARPGROUP",
    "special": r"MUFU",
    "float": (
        r"F2FP|I2FP|F(ADD|MUL|FMA|MNMX|SEL|SET|SETP|CHK|SWZADD)|H(ADD|MUL|FMA|MNMX)|D(ADD|MUL|FMA)"
    ),
    "convert": r"F2I|I2F|F2F",
    "async copy": r"LDGSTS|LDGDEPBAR|DEPBAR|UTMA",
    "shared": r"LDSM|LDS|STSM|STS|ATOMS",
    "global": r"LDG|LD\b|LD\.|STG|ST\b|ST\.|LDL|STL|LDC|ULDC|ATOM|RED\b",
    "shuffle": r"SHFL|VOTE|REDUX|MATCH",
    "barrier": r"BAR|BSSY|BSYNC|SYNCS|MEMBAR|ERRBAR|FENCE|WARPSYNC",
    "branch": r"BRA|BRX|JMP|EXIT|CALL|RET|BREAK|NANOSLEEP|YIELD|BPT|KILL",
    "multiply": r"IMAD|IMUL|UIMAD",
    "integer": (
        r"IADD|VIADD|LOP|PLOP|LEA|SHF|SHL|SHR|SGXT|PRMT|SEL|ISETP|IABS|MOV|CS2R|P2R|R2P|S2R|S2UR"
        r"|VIMNMX|IMNMX|FLO|POPC|BREV|BMSK|I2I|IDP|R2UR|NOP|U[A-Z]"
    ),
    "other": "",
}
"""Patterns of the names of instructions that go to each pipe; the first that fits counts."""


class Instruction(NamedTuple):
    address: int
    text: str
    """Without its predicate."""

    @property
    def name(self) -> str:
        """With its modifiers, as ``MUFU.EX2``."""
        return self.text.split()[0]

    @property
    def pipe(self) -> str:
        return next(pipe for pipe, names in PIPES.items() if re.match(names, self.text))


class Loop(NamedTuple):
    """From the address that a jump goes back to, to that of the jump."""

    start: int
    end: int
    depth: int
    """Loops around it."""

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.start <= address <= self.end


def instructions(text: str) -> list[Instruction]:
    """Those of one kernel, in order; the endless jump to itself behind them is left out."""
    found = (_INSTRUCTION.match(line) for line in text.splitlines())
    every = [Instruction(int(each[1], 16), each[2]) for each in found if each]
    while every and (every[-1].name == "NOP" or _target(every[-1]) == every[-1].address):
        every.pop()
    return every


def loops(kernel: Sequence[Instruction]) -> list[Loop]:
    """In the order of their starts, each before those inside; jumps back to one address are one
    loop."""
    ends: dict[int, int] = {}
    for each in kernel:
        target = _target(each)
        if target is not None and target < each.address:
            ends[target] = max(each.address, ends.get(target, 0))
    found: list[Loop] = []
    for start, end in sorted(ends.items()):
        around = [loop for loop in found if start in loop and end in loop]
        found.append(Loop(start, end, len(around)))
    return found


def main_loop(among: Sequence[Loop]) -> Loop | None:
    """The longest one."""
    return max(among, key=lambda loop: loop.end - loop.start, default=None)


def by_pipe(kernel: Iterable[Instruction]) -> Counter[str]:
    """How many go to each pipe."""
    return Counter(each.pipe for each in kernel)


def divisions(kernel: Iterable[Instruction]) -> int:
    """Integer divisions by numbers that are no constants: each rounds a reciprocal to an
    integer."""
    return sum(each.name.startswith("F2I") for each in kernel)


def _target(instruction: Instruction) -> int | None:
    """The address that it jumps to; None if it does not jump."""
    found = _JUMP.match(instruction.text)
    return int(found[1], 16) if found else None
