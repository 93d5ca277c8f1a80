import pytest

pytest.importorskip("triton")

from benchmarks import gpu_report
from benchmarks.compile_gate import CompiledKernel
from benchmarks.machine_code import MachineCode

KERNEL = CompiledKernel(
    "toy", "BLOCK=64 warps=1", "x_ptr: *fp32", ("one", "two"), 0,
    MachineCode(40, 0, 0, 0, 1, 0.5, "blocks", {"MOV": 3, "LDG": 2, "LDG.128": 2, "HMMA": 4}),
)  # fmt: skip


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    done = []

    def compile_cases(target, ops, *, quick):
        done.append((target, *ops, quick))
        return {op: [KERNEL] for op in ops}

    monkeypatch.setattr(gpu_report, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(gpu_report, "compile_cases", compile_cases)
    return done


def test_a_second_run_compiles_nothing_and_says_the_same(compilations):
    first = list(gpu_report.report(["sm_80", "sm_86"], ["op"]))
    assert sorted(compilations) == [("sm_80", "op", False), ("sm_86", "op", False)]
    assert list(gpu_report.report(["sm_80", "sm_86"], ["op"])) == first
    assert first == [("sm_80", "op", KERNEL), ("sm_86", "op", KERNEL)]
    assert len(compilations) == 2


def test_what_is_missing_of_a_target_compiles_in_one_process(compilations):
    list(gpu_report.report(["sm_80"], ["one"]))
    rows = list(gpu_report.report(["sm_80"], ["one", "two", "three"]))
    assert compilations == [("sm_80", "one", False), ("sm_80", "two", "three", False)]
    assert [op for _, op, _ in rows] == ["one", "two", "three"]


def test_a_changed_source_compiles_again(compilations, monkeypatch, tmp_path):
    kernel = tmp_path / "kernels" / "phasefield_kernels" / "op.py"
    kernel.parent.mkdir(parents=True)
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    for text in ("one", "one", "two"):
        kernel.write_text(text)
        list(gpu_report.report(["sm_80"], ["op"]))
    assert len(compilations) == 2


def test_what_decides_the_speed_is_told_in_a_fixed_order():
    assert gpu_report.notable_instructions(KERNEL.code) == "HMMA 4  LDG.128 2"
