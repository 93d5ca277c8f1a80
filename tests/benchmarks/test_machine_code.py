import pytest

pytest.importorskip("triton")

from benchmarks.machine_code import (
    MachineCode,
    issued,
    load_widths,
    shuffles,
    special_function,
    store_widths,
    tensor_core,
)
from benchmarks.sass import Loop, _lines, sass, sass_instructions
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


NESTED = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/                   FADD R4, R4, R5 ;
        /*0030*/                   MUFU.EX2 R6, R4 ;
        /*0040*/               @P0 BRA 0x30 ;
        /*0050*/                   STG.E.64 [R2.64], R4 ;
        /*0060*/              @!P1 BRA 0x90 ;
        /*0070*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0080*/                   BRA 0x10 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   BRA 0xa0;
"""


def test_a_loop_is_what_a_branch_backwards_repeats_and_inner_ones_have_their_own():
    found = sass(_lines(NESTED))
    inner = {"MUFU": 1, "BRA": 1}
    outer = {"LDG": 1, "LDG.128": 1, "FADD": 1, "STG": 1, "STG.64": 1, "BRA": 2, "IADD3": 1}
    # The branch forward is no loop, nor is the one to itself, which fills the end.
    assert found.loops == (Loop(None, outer), Loop(0, inner))
    assert issued(found.instructions) == 11


def test_instructions_are_put_into_classes_on_both_makers_cards():
    nvidia = {
        "HMMA": 3,
        "MUFU": 2,
        "SHFL": 5,
        "LDG": 3,
        "LDG.128": 2,
        "LDG.16": 1,
        "LDGSTS": 1,
        "LDGSTS.128": 1,
    }
    amd = {"v_mfma_f32_32x32x8_bf16": 3, "v_exp_f32_e32": 2, "ds_bpermute_b32": 5}
    amd |= {"buffer_load_dwordx4": 3, "global_load_ushort": 1, "buffer_store_short_d16_hi": 4}
    for counts in (nvidia, amd):
        assert (tensor_core(counts), special_function(counts), shuffles(counts)) == (3, 2, 5)
        assert load_widths(counts) == {16: 1, 128: 3}
    assert store_widths(amd) == {16: 4}
    assert store_widths({"STG": 2, "STG.64": 2}) == {64: 2}


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
        return MachineCode(32, spilled, stack, shared, 4, 1.0, "warps", 0, {})

    card, accelerator = TARGETS["sm_120"], TARGETS["sm_90"]
    assert code(shared=101_376).violations(card) == []
    assert code(shared=101_377).violations(card) == ["wants 101377 bytes of shared memory, of 101376"]
    assert code(shared=101_377).violations(accelerator) == []
    assert code(spilled=8, stack=16).violations(card) == ["spills 8", "has a stack of 16 bytes"]
