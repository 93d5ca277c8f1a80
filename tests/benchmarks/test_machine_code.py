import pytest

pytest.importorskip("triton")

from benchmarks.machine_code import MachineCode, sass_instructions
from benchmarks.targets import TARGETS

SASS = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, [R2.64] ;
        /*0020*/               @P1 LDG.E.U16 R8, [R2.64+0x10] ;
        /*0030*/                   LDG.E R9, [R2.64] ;
        /*0040*/             @!UP0 UMOV UR4, 0x1 ;
        /*0050*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0060*/                   STL.64 [R1], R4 ;
"""


def test_instructions_are_counted_by_name_and_memory_accesses_by_width():
    loads = {"LDG": 3, "LDG.128": 1, "LDG.16": 1, "LDG.32": 1}
    others = {"MOV": 1, "UMOV": 1, "HMMA": 1, "STL": 1, "STL.64": 1}
    assert sass_instructions(SASS) == loads | others


# Values of NVIDIA's occupancy calculator.
@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "occupancy", "limit"),
    [
        ("sm_80", 64, 256, 2, 0.5, "registers"),
        ("sm_86", 128, 32768, 4, 0.25, "shared memory"),
        ("sm_86", 16, 0, 1, 1 / 3, "blocks"),
        ("sm_89", 16, 0, 8, 1.0, "warps"),
        ("sm_90", 168, 0, 4, 0.1875, "registers"),
        ("sm_86", 32, 101376, 4, 1 / 12, "shared memory"),
        ("sm_86", 32, 101377, 4, 0.0, "shared memory"),
    ],
)
def test_occupancy(target, registers, shared, warps, occupancy, limit):
    share, limited_by = TARGETS[target].occupancy(registers, shared, warps)
    assert share == pytest.approx(occupancy)
    assert limited_by == limit


def test_spills_stack_and_too_much_shared_memory_are_violations():
    def code(spilled=0, stack=0, shared=0):
        return MachineCode(32, spilled, stack, shared, 4, 1.0, "warps", {})

    card, accelerator = TARGETS["sm_120"], TARGETS["sm_90"]
    assert code(shared=101_376).violations(card) == []
    assert code(shared=101_377).violations(card) == ["wants 101377 bytes of shared memory, of 101376"]
    assert code(shared=101_377).violations(accelerator) == []
    assert code(spilled=8, stack=16).violations(card) == ["spills 8", "has a stack of 16 bytes"]
