"""Machine code is read right: instructions, pipes, loops."""

from __future__ import annotations

import pytest

from bilevel.bench.counts import sass
from bilevel.bench.counts.sass import Instruction, Loop
from tests.bench.counts.code import CODE


def test_instructions_are_those_that_run() -> None:
    code = sass.instructions(CODE)
    assert [each.address for each in code] == list(range(0, 0x100, 0x10))
    assert code[3] == Instruction(0x30, "EXIT")
    assert code[6].name == "MUFU.EX2"


def test_loops_are_nested_as_in_the_code() -> None:
    found = sass.loops(sass.instructions(CODE))
    assert found == [Loop(0x40, 0xA0, 0), Loop(0x60, 0x90, 1), Loop(0xC0, 0xD0, 0)]
    assert sass.main_loop(found) == found[0]
    assert 0xA0 in found[0]
    assert 0xB0 not in found[0]


def test_two_jumps_back_to_one_place_are_one_loop() -> None:
    text = "\n".join(f"  /*{at:04x}*/  {what} ;" for at, what in enumerate(("NOP", "BRA 0x0") * 2))
    assert sass.loops(sass.instructions(text)) == [Loop(0, 3, 0)]
    assert sass.main_loop([]) is None


@pytest.mark.parametrize(
    ("text", "pipe"),
    [
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", "matrix"),
        ("MUFU.RCP R4, R4", "special"),
        ("I2F.U32.RP R4, R4", "convert"),
        ("I2FP.F32.S32 R4, R4", "float"),
        ("F2FP.BF16.F32.PACK_AB R4, R5, R4", "float"),
        ("HMNMX2.BF16_V2 R4, R4, R5, PT", "float"),
        ("LDGSTS.E.BYPASS.128 [R4], desc[UR4][R6.64]", "async copy"),
        ("LDSM.16.M88.4 R4, [R4]", "shared"),
        ("LDL R4, [R1]", "global"),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "barrier"),
        ("UIMAD UR4, UR5, UR6, URZ", "multiply"),
        ("ULOP3.LUT UR4, UR5, 0x1, URZ, 0xc0, !UPT", "integer"),
        ("NEWINSTRUCTION R4", "other"),
    ],
)
def test_each_instruction_goes_to_its_pipe(text: str, pipe: str) -> None:
    assert Instruction(0, text).pipe == pipe


def test_pipes_and_divisions_are_counted() -> None:
    code = sass.instructions(CODE)
    counts = sass.by_pipe(code)
    assert counts["branch"] == 5
    assert counts["matrix"] == counts["special"] == counts["shuffle"] == counts["multiply"] == 1
    assert sum(counts.values()) == len(code)
    assert sass.divisions(code) == 1
    assert sass.divisions(code[3:]) == 0
