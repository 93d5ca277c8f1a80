"""The report compiles once, sums up variants, and is held against its committed figures."""

import re
from dataclasses import replace

import pytest

pytest.importorskip("triton")

from benchmarks import baseline, gpu_report
from benchmarks.compile_gate import CompiledKernel
from benchmarks.machine_code import MachineCode
from benchmarks.sass import Loop

KERNEL = CompiledKernel(
    "toy", "BLOCK=64 warps=1", "x_ptr: *fp32", ("one", "two"), 0,
    MachineCode(
        40, 0, 0, 0, 1, 0.5, "blocks", 160, {"MOV": 3, "LDG": 2, "LDG.128": 2, "HMMA": 4},
        (Loop(None, {"LDG": 2, "LDG.128": 2, "HMMA": 4}),),
    ),
)  # fmt: skip


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    done = []

    def compile_cases(targets, ops, *, quick):
        done.append((tuple(targets), tuple(ops), quick))
        return {target: {op: [KERNEL] for op in ops} for target in targets}

    monkeypatch.setattr(gpu_report, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(gpu_report, "compile_cases", compile_cases)
    return done


def test_a_second_run_compiles_nothing_and_says_the_same(compilations):
    first = list(gpu_report.report(["sm_80", "sm_86"], ["op"]))
    assert compilations == [(("sm_86", "sm_80"), ("op",), False)]
    assert list(gpu_report.report(["sm_80", "sm_86"], ["op"])) == first
    assert first == [("sm_80", "op", KERNEL), ("sm_86", "op", KERNEL)]
    assert len(compilations) == 1


def test_an_op_is_compiled_for_all_targets_at_once_and_quick_cases_of_all_ops(compilations):
    rows = list(gpu_report.report(["sm_80", "sm_89"], ["one", "two"]))
    wanted = ("sm_86", "sm_80", "sm_89")
    assert sorted(compilations) == [(wanted, ("one",), False), (wanted, ("two",), False)]
    assert [(target, op) for target, op, _ in rows] == [
        *(("sm_80", "one"), ("sm_80", "two"), ("sm_89", "one"), ("sm_89", "two")),
    ]
    compilations.clear()
    list(gpu_report.report(["sm_86"], ["one", "two"], quick=True))
    assert compilations == [(("sm_86",), ("one", "two"), True)]


def test_the_reference_is_compiled_since_it_decides_what_others_need_not_see(compilations):
    assert [target for target, _, _ in gpu_report.report(["gfx942"], ["op"])] == ["gfx942"]
    assert compilations == [(("sm_86", "gfx942"), ("op",), False)]


def test_a_changed_source_compiles_again_and_one_that_only_reads_results_does_not(
    compilations, monkeypatch, tmp_path
):
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    for folder in ("kernels/phasefield_kernels", "benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    for name, compiled in (("kernels/phasefield_kernels/op.py", 1), ("benchmarks/report.py", 0)):
        for text in ("one", "one", "two"):
            (tmp_path / name).write_text(text)
            list(gpu_report.report(["sm_80"], ["op"]))
        assert len(compilations) == 2 * compiled
        compilations.clear()
        list(gpu_report.report(["sm_80"], ["op"]))


def with_figures(registers=40, shared=0, spilled=0):
    return replace(KERNEL, code=replace(KERNEL.code, registers=registers, shared=shared, spilled=spilled))


def test_a_line_has_the_hungriest_variants_figures_and_all_variants():
    kernels = [("sm_86", "op", with_figures(48)), ("sm_86", "op", KERNEL), ("sm_89", "op", KERNEL)]
    first, second = gpu_report.rows(kernels)
    assert (first["registers"], first["variants"]) == (48, [[40, 0, 0], [48, 0, 0]])
    assert (first["instructions"], first["tensor_core"], first["load_bits"]) == (9, 4, {128: 2})
    # Six instructions of 32 threads for a tile of 64.
    assert first["per_element"] == {"instructions": 3.0, "special_function": 0.0, "shuffles": 0.0}
    assert second["target"] == "sm_89"
    assert len(list(gpu_report.table([first, second]))) == 3


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ([40, 48], [40, 48], None),
        ([40, 48], [40, 44], None),
        ([40, 48], [40, 56], "registers 48 -> 56"),
        # The worst variant hides another's regression.
        ([40, 48], [44, 48], r"a variant's .* \[40, 0, 0\] -> \[44, 0, 0\]"),
    ],
)
def test_more_registers_than_in_the_baseline_are_a_regression(before, after, worse):
    lines = [gpu_report.rows(("sm_86", "op", with_figures(r)) for r in some) for some in (before, after)]
    difference = baseline.compare(*lines, ("target", "op", "kernel", "configuration"), gpu_report.regressions)
    assert bool(difference.worse) == bool(worse)
    if worse:
        assert re.search(worse, difference.worse[0])
